import base64
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.records import MANIFEST_NAME, RECORDS_NAME
from tests.cli.conftest import refused, run, start

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


def test_an_unknown_schema_is_refused(dumps: Path, candidate: Path) -> None:
    change_manifest(candidate, schema="waypoint-parity/dump/9")
    assert refused("diff", dumps / "reference", candidate)["found"] == "waypoint-parity/dump/9"


def test_a_run_that_was_killed_gives_no_verdict_and_can_be_made_again(dump: Dump, dumps: Path, tmp_path: Path) -> None:
    out = tmp_path / "dump"
    process = start(tmp_path, *dump("eager", out=out))
    deadline = time.monotonic() + 60
    while not (out / RECORDS_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (out / RECORDS_NAME).exists()
    for sides in ([out, dumps / "candidate"], [dumps / "reference", out]):
        assert refused("diff", *sides)["what"] == f"{out}: the dump is incomplete"
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
    change_manifest(candidate, scenario_digest="another")
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
