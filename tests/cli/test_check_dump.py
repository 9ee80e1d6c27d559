"""Mistakes that engines of other people make in a dump: each is told with its line and field, and no other is."""

import base64
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import ROOT, refused, run
from tests.harness.observations import foreign
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME, TENSORS_NAME

Lines = list[dict[str, Any]]
PICTURE = "frames/000000.png"


@pytest.fixture(scope="session")
def whole(tiny_folder: Path, scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right dump that keeps some tensors and has no seal; copy it before changing anything in it."""
    out = tmp_path_factory.mktemp("whole") / "dump"
    session = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    assert run("dump", "candidate", *session, "--out", out, "--tensors", "velocity").code == 0
    return foreign(out)


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "mine")


@pytest.fixture
def rings(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> Path:
    """A dump that keeps its rings as full tensors, and has no seal."""
    out = tmp_path / "rings"
    session = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    assert run("dump", "candidate", *session, "--out", out, "--tensors", "kv_cache.*").code == 0
    return foreign(out)


def check(dump: Path, *more: object) -> tuple[int | None, dict[str, int], list[dict[str, Any]]]:
    """(exit code, how many problems of each kind, those that are told)."""
    outcome = run("check-dump", dump, *more, "--json", "-")
    assert "Traceback" not in outcome.err, outcome.err
    found = json.loads(outcome.out)
    return outcome.code, found["counts"], found["problems"]


def lines_of(dump: Path) -> Lines:
    return [json.loads(line) for line in (dump / RECORDS_NAME).read_bytes().splitlines()]


def write_lines(dump: Path, lines: Lines) -> None:
    (dump / RECORDS_NAME).write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def change_manifest(dump: Path, **changes: Any) -> None:
    file = dump / MANIFEST_NAME
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


def line_of(lines: Lines, site: str, unit: int = 0) -> int:
    """The index of the first line of a site."""
    return next(at for at, line in enumerate(lines) if (line["site"], line["unit"]) == (site, unit))


def other_sketch(sketch: str) -> str:
    """A projection of the same norm with other signs."""
    return base64.b64encode((-np.roll(np.frombuffer(base64.b64decode(sketch), "<f4"), 1)).tobytes()).decode()


@pytest.mark.parametrize("extra", ["frames/000000-0-4.png", "frames/000000-2-0.png", "frames/000009.png"])
def test_a_picture_that_no_record_tells_of_is_told(mine: Path, extra: str) -> None:
    shutil.copy(mine / PICTURE, mine / extra)
    code, counts, problems = check(mine)
    assert (code, counts) == (2, {"pictures": 1})
    assert problems[0]["file"] == str(mine / extra)


def test_a_record_of_no_picture_is_told(mine: Path) -> None:
    lines = lines_of(mine)
    for line in lines:
        if line["site"] == "frame":
            line["shape"] = [0, *line["shape"]]
    write_lines(mine, lines)
    code, counts, _ = check(mine)
    assert code == 2
    assert counts["pictures"]


def test_a_right_dump_passes(dumps: Path, whole: Path, tiny_folder: Path, scenario_file: Path) -> None:
    session = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    for dump in (dumps / "reference", whole):
        assert check(dump) == (0, {}, [])
        assert check(dump, *session, "--against", dumps / "reference") == (0, {}, [])


@pytest.mark.parametrize(
    ("site", "changes", "kind", "field"),
    [
        ("latent", {"site": "latnet"}, "site", "site"),
        ("latent", {"site": "mine"}, "site", "site"),
        ("latent", {"unit": "0"}, "record", "unit"),
        ("latent", {"mean": "0.5"}, "record", "mean"),
        ("latent", {"dtype": "f32"}, "shape", "dtype"),
        ("latent", {"min": 3.0, "max": -3.0}, "statistics", "min, max"),
        ("latent", {"rms": 0.0}, "statistics", "rms"),
        ("latent", {"mean": 1e6}, "statistics", "mean"),
        ("latent", {"std": 0.0}, "statistics", "std"),
        ("latent", {"nan": 10**6}, "statistics", "nan, posinf, neginf"),
        ("latent", {"absmean": None}, "statistics", "absmean"),
        ("latent", {"sample": [0.0] * 4}, "statistics", "sample"),
        ("latent", {"sample": [1e6] * 8}, "statistics", "sample"),
        ("latent", {"sketch": base64.b64encode(bytes(4 * 61)).decode()}, "another projection", "sketch"),
        ("latent", {"rms": 1e300}, "statistics", "rms"),
        ("latent", {"shape": [1 << 47] * 30}, "shape", "shape"),
        ("velocity", {"digest": "0" * 16}, "digest", "digest"),
        ("velocity", {"absmean": 0.7}, "statistics", "absmean"),
        ("velocity", {"shape": [16]}, "tensors", "shape, dtype"),
        ("input.mouse", {"sample": [0.1234567890123] * 8}, "statistics", "sample, min, max"),
        ("frame", {"dtype": "float32"}, "shape", "shape, dtype"),
    ],
)
def test_a_mistake_in_a_record_is_told_by_line_and_field(
    mine: Path, site: str, changes: dict[str, Any], kind: str, field: str
) -> None:
    lines = lines_of(mine)
    at = line_of(lines, site)
    lines[at] |= changes
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert code == 2
    assert counts[kind] >= 1
    told = [problem for problem in problems if problem["kind"] == kind]
    assert (at + 1, field) in [(problem.get("line"), problem.get("field")) for problem in told]
    assert {problem["line"] for problem in problems if problem["kind"] not in ("missing", "pictures")} == {at + 1}


def test_a_misspelt_name_is_told_with_the_right_one(mine: Path) -> None:
    lines = lines_of(mine)
    at = line_of(lines, "transformer.blocks.1.mlp")
    lines[at]["site"] = "transformer.block.1.mlp"
    lines[at + 1]["digests"] = lines[at + 1].pop("digest")
    lines[at + 2]["absmaen"] = lines[at + 2].pop("absmean")
    write_lines(mine, lines)
    change_manifest(mine, sheckpoint_digest="", scenario_digest=3, unit=2)
    _, _, problems = check(mine)
    expected = {(problem.get("line"), problem.get("field")): problem["expected"] for problem in problems}
    assert "transformer.blocks.1.mlp" in expected[at + 1, "site"]
    assert "digest" in expected[at + 2, "digests"]
    assert "absmean" in expected[at + 3, "absmaen"]
    assert (None, "scenario_digest") in expected


def test_everything_is_told_and_not_the_first_alone(mine: Path) -> None:
    lines = lines_of(mine)
    for line in lines:
        line["rms"] = -1.0
    lines[3]["site"], lines[5]["step"] = "patchfy", -1
    write_lines(mine, lines)
    (mine / PICTURE).unlink()
    change_manifest(mine, observed=7)
    code, counts, problems = check(mine)
    assert code == 2
    assert {"statistics", "site", "record", "pictures", "promise"} <= counts.keys()
    assert counts["statistics"] > 100
    assert sum(problem["kind"] == "statistics" for problem in problems) == 20
    outcome = run("check-dump", mine)
    assert outcome.code == 2
    assert f"{mine / RECORDS_NAME}, line 6: [step]" in outcome.out


def test_a_manifest_tells_every_field_that_is_missing(mine: Path) -> None:
    given = json.loads((mine / MANIFEST_NAME).read_bytes())
    del given["torch"], given["observed"], given["complete"]
    (mine / MANIFEST_NAME).write_text(json.dumps(given | {"threads": "8", "sigmas": [None]}))
    code, counts, problems = check(mine)
    assert code == 2
    assert {problem["field"] for problem in problems} == {"torch", "observed", "complete", "threads", "sigmas"}
    assert counts == {"manifest": 5}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda lines: lines.insert(9, lines[8]), "twice"),
        (lambda lines: lines.append(lines.pop(20)), "order"),
        (lambda lines: lines[8].update(call=2), "order"),
        (lambda lines: lines.pop(), "promise"),
    ],
    ids=["twice", "a step in two places", "calls", "too few"],
)
def test_a_mistake_in_the_file_is_told(mine: Path, change: Callable[[Lines], None], kind: str) -> None:
    lines = lines_of(mine)
    change(lines)
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert code == 2
    assert kind in counts
    assert next(problem for problem in problems if problem["kind"] == kind).get("line")


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"", b'{"unit":NaN}', b"\xff"], ids=["cut", "list", "empty", "NaN", "bytes"]
)
def test_a_line_that_is_no_json_does_not_hide_the_others(mine: Path, line: bytes) -> None:
    lines = (mine / RECORDS_NAME).read_bytes().splitlines()
    lines[4], lines[11] = line, lines[11].replace(b'"velocity"', b'"x"').replace(b'"rms":', b'"norm":')
    (mine / RECORDS_NAME).write_bytes(b"\n".join(lines) + b"\n")
    code, _, problems = check(mine)
    assert code == 2
    assert {5, 12} <= {problem.get("line") for problem in problems}


def test_another_projection_is_told_by_tensors_by_small_tensors_and_by_another_dump(mine: Path, dumps: Path) -> None:
    lines = lines_of(mine)
    for line in lines:
        line["sketch"] = other_sketch(line["sketch"])
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert code == 2
    assert counts.keys() == {"another projection"}
    told = {lines[problem["line"] - 1]["site"] for problem in problems}
    assert {"velocity", "input.mouse", "input.sigma"} <= told
    assert all("another projection" in problem["found"] and "docs/format.md" in problem["do"] for problem in problems)
    _, more, _ = check(mine, "--against", dumps / "reference")
    assert more["another projection"] > counts["another projection"]
    for line in lines:
        line.pop("digest", None)
    write_lines(mine, lines)
    # An engine on an accelerator writes no digests, and need not keep tensors.
    (mine / TENSORS_NAME).unlink()
    _, without, _ = check(mine, "--against", dumps / "reference")
    assert without.keys() == {"another projection"}
    assert without["another projection"] > more["another projection"] / 2


def test_another_session_is_told_by_the_checkpoint(mine: Path, tiny_folder: Path, scenario_file: Path) -> None:
    session = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    given = json.loads((mine / MANIFEST_NAME).read_bytes())
    changes = {"checkpoint_digest": "c0ffee", "inputs": given["inputs"] | {"noise": "0"}, "passes": None, "units": 3}
    change_manifest(mine, **changes)
    lines = lines_of(mine)
    last = lines[-1]
    extra = last | {"unit": 2, "step": 0, "site": "decoder.conv_out", "shape": [1], "dtype": "uint8"}
    taken = lines.pop(line_of(lines, "out_norm"))
    write_lines(mine, [*lines, last | {key: extra[key] for key in ("unit", "site")}])
    code, counts, problems = check(mine, *session)
    assert code == 2
    assert {problem["field"] for problem in problems if problem["kind"] == "manifest"} == {
        "checkpoint_digest", "inputs.noise", "units"
    }  # fmt: skip
    assert [problem["line"] for problem in problems if problem["kind"] == "site"] == [len(lines) + 1]
    assert [problem["key"] for problem in problems if problem["kind"] == "missing"] == [taken["site"]]
    assert counts["missing"] == 1


def test_what_the_other_dump_has_differently_is_told(mine: Path, dumps: Path) -> None:
    lines = lines_of(mine)
    at = line_of(lines, "transformer.blocks.0.attn.q_rope")
    lines[at]["shape"] = [lines[at]["shape"][place] for place in (0, 2, 1, 3)]
    removed = lines.pop(line_of(lines, "decoder.conv_in"))
    write_lines(mine, lines)
    change_manifest(mine, observed=len(lines))
    _, counts, problems = check(mine, "--against", dumps / "reference")
    assert counts == {"shape": 1, "missing": 1}
    assert problems[0]["line"] == at + 1
    assert problems[1]["key"] == removed["site"]


def test_pictures_that_are_not_those_of_their_records_are_told(mine: Path) -> None:
    pixels = np.array(Image.open(mine / PICTURE))
    Image.fromarray(255 - pixels).save(mine / PICTURE)
    (mine / "frames/000001.png").write_bytes(b"no picture")
    Image.fromarray(pixels).save(mine / "frames/frame2.png")
    code, counts, problems = check(mine)
    assert (code, counts) == (2, {"pictures": 3})
    assert f"{mine / 'frames' / 'frame2.png'}" in [problem["file"] for problem in problems]


def test_a_mean_that_was_summed_in_fp32_is_told_with_its_number(mine: Path) -> None:
    lines = lines_of(mine)
    line = lines[line_of(lines, "frame")]
    del line["digest"]
    off = float(f"{line['mean'] * (1 + 2e-6):.9g}")
    line["mean"] = off
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert (code, counts) == (2, {"pictures": 1})
    right = np.array(Image.open(mine / PICTURE)).mean(dtype=np.float64)
    assert f"{off:.9g}" in problems[0]["found"]
    assert f"{right:.9g}" in problems[0]["found"]


def test_tensors_without_a_record_and_of_other_values_are_told(mine: Path) -> None:
    tensors = load_file(mine / TENSORS_NAME)
    first, second = sorted(tensors)[:2]
    tensors[first] = tensors[first] + 1
    tensors["u0/denoise0/velocty"] = tensors.pop(second)
    save_file(tensors, mine / TENSORS_NAME)
    code, counts, problems = check(mine)
    assert (code, counts) == (2, {"tensors": 2})
    assert [problem.get("key") for problem in problems] == [first, None]
    (mine / TENSORS_NAME).write_bytes(b"nothing")
    assert check(mine)[1] == {"tensors": 1}


def test_a_seal_that_is_broken_and_a_run_that_did_not_end_are_told(candidate: Path, mine: Path) -> None:
    # Other spaces: nothing else tells of it.
    write_lines(candidate, lines_of(candidate))
    assert check(candidate)[1] == {"seal": 1}
    change_manifest(mine, complete=False, ended="out of memory")
    assert check(mine)[1] == {"promise": 1}


RING = "kv_cache.layers.0"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dump", ["mine", "rings"])
@pytest.mark.parametrize(
    ("site", "change"),
    [
        (f"{RING}.visible", lambda words: [{"1": "0", "0": "1"}.get(word, word) for word in words]),
        (f"{RING}.written", lambda words: ["1"] * len(words)),
        (f"{RING}.written", lambda words: ["yes"] * len(words)),
        (f"{RING}.kv", lambda words: words[1:]),
        (f"{RING}.kv", lambda words: ["empty"] * len(words)),
        ("velocity", lambda words: ["empty"]),
    ],
)
def test_words_for_slots_that_were_made_up_are_told(
    request: pytest.FixtureRequest, dump: str, site: str, change: Callable[[list[str]], list[str]]
) -> None:
    """By records alone, and by tensors that are kept."""
    mine: Path = request.getfixturevalue(dump)
    lines = lines_of(mine)
    at = line_of(lines, site)
    lines[at]["slots"] = change(lines[at].get("slots") or [])
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert (code, counts) == (2, {"record": 1})
    assert (problems[0]["line"], problems[0]["field"]) == (at + 1, "slots")


def test_another_engine_may_use_words_of_its_own_for_keys(rings: Path) -> None:
    lines = lines_of(rings)
    for line in lines:
        if line["site"].endswith(".kv"):
            line["slots"] = [word if word == "empty" else f"slot {word[:6]}" for word in line["slots"]]
    write_lines(rings, lines)
    assert check(rings) == (0, {}, [])
    at = next(at for at, line in enumerate(lines) if len({*line.get("slots", ())} - {"empty"}) > 1)
    lines[at]["slots"] = ["empty" if word == "empty" else "same" for word in lines[at]["slots"]]
    write_lines(rings, lines)
    assert [problem["line"] for problem in check(rings)[2]] == [at + 1]


def test_caches_of_another_model_are_told(mine: Path, dumps: Path, tiny_folder: Path, scenario_file: Path) -> None:
    caches = json.loads((mine / MANIFEST_NAME).read_bytes())["caches"]
    change_manifest(mine, caches=[cache | {"tokens": 3} for cache in caches])
    for more in (("--checkpoint", tiny_folder, "--scenario", scenario_file), ("--against", dumps / "reference")):
        assert ("manifest", "caches") in {(each["kind"], each["field"]) for each in check(mine, *more)[2]}


@pytest.mark.parametrize("sigmas", [[1.0, 0.0], [1.0, 0.9, 0.8, 0.5, 0.1, 0.0], "scaled"])
def test_a_schedule_that_was_not_run_is_told(
    mine: Path, tiny_folder: Path, scenario_file: Path, sigmas: list[float] | str
) -> None:
    own = json.loads((mine / MANIFEST_NAME).read_bytes())["sigmas"]
    change_manifest(mine, sigmas=[0.99 * each for each in own] if sigmas == "scaled" else sigmas)
    session = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    code, _, problems = check(mine)
    assert code == 2
    assert "sigmas" in {problem["field"] for problem in problems}
    told = [problem for problem in check(mine, *session)[2] if problem["field"] == "sigmas"]
    assert any(str(own[0]) in problem["expected"] for problem in told)


def test_a_noise_level_of_another_step_is_told(mine: Path) -> None:
    lines = lines_of(mine)
    lines[line_of(lines, "velocity")]["sigma"] = 0.123
    write_lines(mine, lines)
    code, counts, problems = check(mine)
    assert (code, counts, problems[0]["field"]) == (2, {"record": 1}, "sigma")
    # A run in a lower precision rounds its noise levels.
    own = json.loads((mine / MANIFEST_NAME).read_bytes())
    lines[line_of(lines, "velocity")]["sigma"] = own["sigmas"][0] * (1 + 2**-9)
    write_lines(mine, lines)
    change_manifest(mine, numerics=own["numerics"] | {"dtype": "bf16"})
    assert check(mine) == (0, {}, [])


def test_statistics_alone_are_no_mistake_and_are_counted(mine: Path) -> None:
    lines = lines_of(mine)
    for line in lines:
        if line["site"] != "frame" and not line["site"].startswith("input."):
            line |= {"sketch": "", "sample": [], "shape": None, "std": None}
    write_lines(mine, lines)
    (mine / TENSORS_NAME).unlink()
    outcome = run("check-dump", mine, "--json", "-")
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["statistics_alone"] == sum(line["sketch"] == "" for line in lines)
    lines[30]["min"], lines[30]["max"] = 2.0, 1.0
    write_lines(mine, lines)
    assert check(mine)[1] == {"statistics": 1}


def test_a_folder_without_a_dump_is_told(tmp_path: Path) -> None:
    code, counts, _ = check(tmp_path)
    assert code == 2
    assert counts == {"manifest": 1, "record": 1}
    assert refused("check-dump", tmp_path, "--scenario", "any")["found"] == "--scenario alone"


# --- written by the page alone


def record(at: dict[str, Any], shape: list[int], values: list[float], bits: bytes) -> dict[str, Any]:
    """A record as docs/format.md says, in nothing but the language itself."""

    def sign(k: int) -> int:
        return 1 if bits[k >> 3] >> (k & 7) & 1 else -1

    n, sketch = len(values), [0.0] * 61
    for i, value in enumerate(values):
        chunk, place = divmod(i, 32757)
        sketch[place % 61] += value * sign(33 * chunk + place) * sign(8320 * 8 + chunk)
    mean = sum(values) / n
    statistics = {
        "mean": mean,
        "std": (sum((x - mean) ** 2 for x in values) / n) ** 0.5,
        "min": min(values),
        "max": max(values),
        "absmean": sum(map(abs, values)) / n,
        "rms": (sum(x * x for x in values) / n) ** 0.5,
    }
    return {
        **at,
        "shape": shape,
        "dtype": "float32",
        "nan": 0,
        "posinf": 0,
        "neginf": 0,
        **{name: float(f"{value:.9g}") for name, value in statistics.items()},
        "sample": [float(f"{values[(2 * i * (n - 1) + 7) // 14]:.9g}") for i in range(8)],
        "sketch": base64.b64encode(struct.pack("<61f", *sketch)).decode(),
    }


def by_hand(folder: Path, whole: Path) -> Path:
    """A dump of all noise levels and of one velocity, whose values are those that a right dump kept."""
    bits = (ROOT / "harness/record/format/signs.bin").read_bytes()
    kept, lines = load_file(whole / TENSORS_NAME)["u0/denoise0/velocity"], []
    for line in lines_of(whole):
        at = {name: line[name] for name in ("unit", "phase", "step", "site", "call", "sigma")}
        if line["site"] == "input.sigma":
            lines.append(record(at, [1, 1], [line["sample"][0]], bits))
        elif line["site"] == "velocity" and (line["unit"], line["step"]) == (0, 0):
            lines.append(record(at, [*kept.shape], kept.ravel().tolist(), bits))
    given = json.loads((whole / MANIFEST_NAME).read_bytes())
    copied = (
        "schema",
        "family",
        "checkpoint_digest",
        "checkpoint_origin",
        "scenario_digest",
        "scenario_name",
        "sigmas",
    )
    own = {
        "implementation": "by hand", "numerics": {"dtype": "fp32"}, "description": {}, "variant": None, "torch": "none",
        "threads": 1, "platform": "any", "source_revision": None, "expected": len(lines), "observed": len(lines),
        "seconds": 0.0, "complete": True,
        "selection": {"sites": ["velocity"], "units": [0], "steps": [0], "stepped": ["denoise"]},
    }  # fmt: skip
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(json.dumps({name: given[name] for name in copied} | own))
    write_lines(folder, lines)
    return folder


def test_a_dump_that_was_written_by_the_page_alone_passes(dumps: Path, whole: Path, tmp_path: Path) -> None:
    mine = by_hand(tmp_path / "by_hand", whole)
    assert check(mine) == (0, {}, [])
    allowed = ("--allow-missing", *sorted({f"{name}*" for name in ("input.[!s]", "input.scroll")}))
    outcome = run("diff", dumps / "candidate", mine, *allowed)
    assert outcome.code == 0, outcome
    lines = lines_of(mine)
    lines[0]["sample"], lines[0]["mean"] = [0.5] * 8, 0.5
    write_lines(mine, lines)
    assert {problem["line"] for problem in check(mine)[2]} == {1}
