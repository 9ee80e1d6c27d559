import base64
import dataclasses
import json
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import refused, run, start
from tests.harness.observations import foreign
from waypoint_parity.harness.record.blocks import LONGEST_LINE
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME
from waypoint_parity.harness.record.statistics import summarise
from waypoint_parity.harness.run.digest import fast_digest

Dump = Callable[..., tuple[object, ...]]


def change_line(dump: Path, number: int, change: Callable[[bytes], bytes]) -> Path:
    """Change one line of a dump's records; lines count from 1. Returns the file."""
    file = dump / RECORDS_NAME
    lines = file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    file.write_bytes(b"".join(lines))
    return file


def change_manifest(dump: Path, **changes: Any) -> None:
    file = dump / MANIFEST_NAME
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))
    foreign(dump)


def test_a_dump_cut_off_within_a_record_is_refused_by_file_and_line(dumps: Path, candidate: Path) -> None:
    file = candidate / RECORDS_NAME
    file.write_bytes(file.read_bytes()[:-100])
    parts = refused("diff", dumps / "reference", candidate)
    number = len(file.read_bytes().splitlines())
    assert parts["what"] == f"{file}, line {number}: not a record"
    assert parts["found"] == "the line is cut short"


def test_dumps_cut_off_alike_between_two_records_do_not_agree(candidate: Path) -> None:
    file = candidate / RECORDS_NAME
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:20]))
    assert refused("diff", candidate, candidate)["found"] == "20 records"


def with_sketch_of(numbers: int) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        sketch = base64.b64encode(bytes(4 * numbers)).decode()
        return json.dumps(json.loads(line) | {"sketch": sketch}).encode() + b"\n"

    return change


def test_a_sketch_of_another_length_is_refused_by_file_and_line(dumps: Path, candidate: Path) -> None:
    file = change_line(candidate, 7, with_sketch_of(64))
    parts = refused("diff", dumps / "reference", candidate)
    assert parts["what"] == f"{file}, line 7: not a record"
    assert parts["found"] == "a sketch of 64 numbers"


def test_invalid_utf8_is_refused_by_file_and_line(dumps: Path, candidate: Path) -> None:
    file = change_line(candidate, 5, lambda line: line.replace(b'"site":"', b'"site":"\xff\xc3'))
    assert refused("diff", dumps / "reference", candidate)["what"] == f"{file}, line 5: not a record"


def with_fields(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps(json.loads(line) | changes).encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (with_fields(sketch="#" * 328), "base64"),
        (lambda line: b"[1, 2]\n", "Expected `object`"),
        (lambda line: b"\n", "truncated"),
        (with_fields(sample=["0.5"]), "$.sample"),
        (with_fields(sample={}), "$.sample"),
        (with_fields(unit=-1), "$.unit"),
        (with_fields(unit=1 << 40), "$.unit"),
        (lambda line: line.replace(b'"rms"', b'"norm"'), "`rms`"),
    ],
    ids=["no base64", "a list", "empty", "a text", "no sample", "a unit before 0", "an absurd unit", "no rms"],
)
def test_a_line_that_is_no_record_is_refused_by_file_and_line(
    dumps: Path, candidate: Path, change: Callable[[bytes], bytes], found: str
) -> None:
    file = change_line(candidate, 9, change)
    parts = refused("diff", dumps / "reference", candidate)
    assert parts["what"] == f"{file}, line 9: not a record"
    assert found.lower() in parts["found"].lower()


def test_a_line_of_two_gigabytes_is_refused_unread(dumps: Path, candidate: Path) -> None:
    file = candidate / RECORDS_NAME
    lines = len(file.read_bytes().splitlines())
    with file.open("r+b") as sparse:
        sparse.truncate(file.stat().st_size + (2 << 30))
    # More memory than the diff of these dumps needs, much less than such a line.
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))}
    parts = refused("diff", dumps / "reference", candidate, **limited)
    assert parts["what"] == f"{file}, line {lines + 1}: not a record"
    assert parts["found"] == f"a line of more than {LONGEST_LINE} bytes"


@pytest.mark.parametrize("line", [4, 50], ids=["adjacent", "far apart"])
def test_two_records_of_one_key_are_refused_by_file_and_line(dumps: Path, candidate: Path, line: int) -> None:
    file = candidate / RECORDS_NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:line], lines[3], *lines[line:]]))
    change_manifest(candidate, observed=len(lines) + 1)
    parts = refused("diff", dumps / "reference", candidate)
    assert parts["what"].startswith(f"{file}, line {line + 1}: u0/")
    assert parts["found"].endswith("the first is on line 4")


def shifted(dump: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = dump / RECORDS_NAME
    lines = map(json.loads, file.read_bytes().splitlines())
    file.write_bytes(b"".join(json.dumps(line | change(line)).encode() + b"\n" for line in lines))
    foreign(dump)


@pytest.mark.parametrize("both", [("reference", "candidate"), ("candidate", "reference")], ids=["higher", "lower"])
def test_a_clock_that_is_one_unit_off_is_told_with_file_and_line(
    dumps: Path, tmp_path: Path, both: tuple[str, str]
) -> None:
    sides = {role: shutil.copytree(dumps / role, tmp_path / role) for role in both}
    shifted(sides[both[1]], lambda line: {"unit": line["unit"] + 1})
    outcome = run("diff", sides["reference"], sides["candidate"])
    assert outcome.code == 2
    assert outcome.out.startswith("INCOMPARABLE: ")
    word = "higher" if both[1] == "candidate" else "lower"
    assert f"the clock differs: every unit of the candidate is numbered 1 {word}" in outcome.out
    assert f"{sides[both[1]] / RECORDS_NAME}, line 1: unit 1" in outcome.out
    assert f"{sides[both[0]] / RECORDS_NAME}, line 1: unit 0" in outcome.out


def test_a_clock_that_was_consumed_one_unit_late_is_told_by_its_values(dumps: Path, candidate: Path) -> None:
    def late(line: dict[str, Any]) -> dict[str, Any]:
        if line["site"] != "input.timestamp":
            return {}
        # A record that contradicts itself would be no pass.
        clock = torch.tensor([[int(line["mean"]) + 1]])
        told = dataclasses.asdict(summarise(clock))
        return {**told, "sketch": base64.b64encode(told["sketch"]).decode(), "digest": fast_digest(clock)}

    shifted(candidate, late)
    outcome = run("diff", dumps / "reference", candidate)
    assert outcome.code == 2
    number = next(
        number
        for number, line in enumerate((candidate / RECORDS_NAME).read_bytes().splitlines(), start=1)
        if json.loads(line)["site"] == "input.timestamp"
    )
    assert "input.timestamp is 1, expected 0, at unit 0, denoise step 0" in outcome.out
    assert f"{candidate / RECORDS_NAME}, line {number}; {dumps / 'reference' / RECORDS_NAME}, line " in outcome.out
    assert run("diff", dumps / "reference", candidate, "--accept-inputs", "timestamp").code == 0


def test_an_unknown_name_of_an_input_is_refused_with_the_list(dumps: Path) -> None:
    parts = refused("diff", dumps / "reference", dumps / "candidate", "--accept-inputs", "noize")
    assert parts["found"] == "noize"
    assert "prompt_pad_mask" in parts["expected"]


def test_a_manifest_without_a_dtype_is_refused(dumps: Path, candidate: Path) -> None:
    change_manifest(candidate, numerics={"device": "cpu"})
    assert refused("diff", dumps / "reference", candidate)["found"] == "numerics with device"


def test_an_unknown_schema_is_refused(dumps: Path, candidate: Path) -> None:
    change_manifest(candidate, schema="waypoint-parity/dump/9")
    assert refused("diff", dumps / "reference", candidate)["found"] == "waypoint-parity/dump/9"


def test_a_run_that_was_killed_does_not_pass_and_can_be_made_again(dump: Dump, dumps: Path, tmp_path: Path) -> None:
    out = tmp_path / "dump"
    process = start(tmp_path, *dump("eager", out=out))
    deadline = time.monotonic() + 60
    while not (out / RECORDS_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert (out / RECORDS_NAME).exists()
    for sides in ([out, dumps / "candidate"], [dumps / "reference", out]):
        outcome = run("diff", *sides, "--allow-missing", "*")
        assert outcome.code == 1, outcome
        assert f"{out} is incomplete" in outcome.out
    assert run(*dump("eager", out=out)).code == 0
    assert run("diff", dumps / "reference", out).out.startswith("IDENTICAL")


def test_a_folder_that_is_no_dump_is_refused(dumps: Path, golden: Path) -> None:
    parts = refused("diff", dumps / "reference", golden / "base")
    assert parts["what"] == f"{golden / 'base' / MANIFEST_NAME}: cannot be read as a manifest"


def test_a_golden_pack_is_not_taken_for_a_dump_to_replace(dump: Dump, golden: Path, tmp_path: Path) -> None:
    pack = shutil.copytree(golden / "bf16", tmp_path / "pack")
    before = sorted(pack.iterdir())
    assert refused(*dump("eager", out=pack))["what"] == f"{pack}: is not empty"
    assert sorted(pack.iterdir()) == before


def test_dumps_of_unequal_inputs_get_no_score(dumps: Path, candidate: Path) -> None:
    change_manifest(candidate, scenario_digest="another", inputs=None)
    outcome = run("diff", dumps / "reference", candidate)
    assert outcome.code == 2
    assert outcome.out.startswith("INCOMPARABLE: candidate against eager\n")
    assert "scenario differs" in outcome.out
    assert "relative L2" not in outcome.out


def test_a_dtype_without_a_documented_tolerance_is_judged_by_the_one_given(dumps: Path, tmp_path: Path) -> None:
    sides = [shutil.copytree(dumps / role, tmp_path / role) for role in ("reference", "candidate")]
    for side in sides:
        change_manifest(side, numerics={"dtype": "fp8"})
    assert run("diff", *sides, "--tolerance", 0.5).code == 0


@pytest.mark.parametrize("how", ["a mark of the byte order", "no last newline", "lines of Windows", "more fields"])
def test_what_another_engine_writes_differently_is_read_where_it_does_no_harm(
    dumps: Path, candidate: Path, how: str
) -> None:
    file = candidate / RECORDS_NAME
    content = file.read_bytes()
    changed = {
        "a mark of the byte order": b"\xef\xbb\xbf" + content,
        "no last newline": content.rstrip(b"\n"),
        "lines of Windows": content.replace(b"\n", b"\r\n"),
        "more fields": content.replace(b'"call":', b'"engine":"mlx","took":[3.5],"call":'),
    }
    assert changed[how] != content
    file.write_bytes(changed[how])
    outcome = run("diff", dumps / "reference", foreign(candidate))
    assert outcome.code == 0, outcome


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", "NaN"),
        ("max", "Infinity"),
        ("nan", "9" * 400),
        ("shape", f"[{10**30}]"),
        ("shape", "[-1]"),
        ("call", "1e9"),
    ],
)
def test_a_number_that_is_none_is_refused_by_line_and_the_way_to_write_it(
    dumps: Path, candidate: Path, field: str, value: str
) -> None:
    file = candidate / RECORDS_NAME
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = re.sub(
        rb'"%s":(\[[^\]]*\]|[^,]*)' % field.encode(), b'"%s":%s' % (field.encode(), value.encode()), lines[3]
    )
    file.write_bytes(b"".join(lines))
    parts = refused("diff", dumps / "reference", foreign(candidate))
    assert parts["what"] == f"{file}, line 4: not a record"
    assert ("null" in parts["found"]) is (value in ("NaN", "Infinity"))
