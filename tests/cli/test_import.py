"""Dumps of other tools, imported and compared: each pair names what its sample was made to show."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ROOT, refused, run
from waypoint_parity.harness.record.records import TENSORS_NAME, read_manifest

SAMPLES = ROOT / "fixtures" / "peer_dumps"


def compared(folder: Path, reference: str, candidate: str, *options: object, more: tuple[object, ...] = ()) -> Any:
    """The exit code and the comparison of two samples imported with `options`; `more` are options of diff."""
    for name, sample in (("reference", reference), ("candidate", candidate)):
        outcome = run("import", SAMPLES / sample, "--out", folder / name, *options)
        assert outcome.code == 0, outcome
    outcome = run("diff", folder / "reference", folder / "candidate", "--json", folder / "diff.json", *more)
    return outcome, json.loads((folder / "diff.json").read_text())


# Reference, candidate, options, the first site that diverges, and its relative L2 error.
EXACT = [
    ("msprobe/tensor/right", "msprobe/tensor/permuted", (), "blocks.0.attn.heads", 1.30),
    ("transformers/full/right", "transformers/full/permuted", (), "blocks.0.attn.heads", 1.30),
    ("sglang/right", "sglang/permuted", (), "blocks.0.attn.heads", 1.30),
    # Its own comparator passes this one.
    ("sglang/right", "sglang/one_percent", (), "blocks.0.mlp", 1.0e-2),
    ("polygraphy/right.json", "polygraphy/one_percent.json", (), "/m/blocks.0/mlp/fc2/MatMul_output_0", 1.0e-2),
    # Its graph has other operations, so an unlike one has this name.
    ("polygraphy/right.json", "polygraphy/permuted.json", (), "/m/blocks.0/attn/Reshape_3_output_0", 1.0),
    *(
        (f"hand/flat/right.{kind}", f"hand/flat/permuted.{kind}", (), "block_1.attn.heads", 1.39)
        for kind in ("pt", "npz")
    ),
    ("hand/flat/right.safetensors", "hand/flat/permuted.safetensors", (), "block_1.attn.heads", 1.39),
    ("hand/flat/right.pt", "hand/flat/one_percent.pt", (), "block_1.mlp", 1.0e-2),
    ("hand/frame_files/right", "hand/frame_files/permuted", (), "dit_out", 0.177),
    ("hand/stacked/right.pt", "hand/stacked/permuted.pt", ("--by-name",), "block1__output", 0.135),
    ("hand/step_folders/right", "hand/step_folders/permuted", (), "block_1", 0.135),
]


@pytest.mark.parametrize(("reference", "candidate", "options", "site", "error"), EXACT)
def test_the_first_wrong_site_is_named_with_its_exact_error(
    tmp_path: Path, reference: str, candidate: str, options: tuple[object, ...], site: str, error: float
) -> None:
    outcome, comparison = compared(tmp_path, reference, candidate, *options)
    assert outcome.code == 1
    assert comparison["verdict"] == "DIVERGED"
    assert comparison["first"]["site"] == site
    assert comparison["first"]["rel_l2"] == pytest.approx(error, rel=5e-3)
    assert comparison["evidence"].startswith("tensors")


def test_what_an_index_names_and_has_no_file_is_missing(tmp_path: Path) -> None:
    """Half of the candidate's files are gone. What is wrong is named all the same, with its error of 1.39."""
    gone = ("blocks.0", "blocks.1", "blocks.*.attn", "blocks.0.mlp")
    outcome, comparison = compared(
        tmp_path, "hand/indexed/right", "hand/indexed/permuted", more=("--allow-missing", *gone)
    )
    assert outcome.code == 1
    assert comparison["first"]["site"] == "blocks.1.attn.heads"
    assert comparison["first"]["rel_l2"] == pytest.approx(1.39, rel=5e-3)


# The same by statistics alone: the first site that they prove to diverge, and by how much at least.
BY_STATISTICS = [
    ("fastvideo/right.jsonl", "fastvideo/one_percent.jsonl", "blocks.1.mlp.fc2", 1.0e-2),
    # Rolled heads keep every statistic: seen one site late.
    ("fastvideo/right.jsonl", "fastvideo/permuted.jsonl", "blocks.1.attn.out_proj", 0.134),
    ("fastvideo/right.jsonl", "fastvideo/sixty.jsonl", "blocks.1.mlp.fc2", 0.6),
    ("fastvideo/right.jsonl", "fastvideo/sixty_same.jsonl", "blocks.1.mlp.fc2", 0.075),
    ("msprobe/statistics/right", "msprobe/statistics/one_percent", "blocks.0.mlp.fc2", 1.0e-2),
    ("msprobe/statistics/right", "msprobe/statistics/permuted", "blocks.0.attn.out_proj", 0.138),
]


@pytest.mark.parametrize(("reference", "candidate", "site", "least"), BY_STATISTICS)
def test_statistics_name_the_first_site_that_they_prove_wrong(
    tmp_path: Path, reference: str, candidate: str, site: str, least: float
) -> None:
    outcome, comparison = compared(tmp_path, reference, candidate)
    assert outcome.code == 1
    assert (comparison["verdict"], comparison["first"]["site"]) == ("DIVERGED", site)
    assert comparison["first"]["rel_l2"] == pytest.approx(least, rel=1e-2)
    assert comparison["first"]["at_least"]
    assert (comparison["first"]["step"], comparison["first"]["call"]) == (0, 0)
    # What was not proven wrong is not right.
    assert set(comparison["counts"]) == {"DIVERGED", "NOT_REFUTED"}


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("fastvideo/right.jsonl", "fastvideo/right.jsonl"),
        ("msprobe/statistics/right", "msprobe/statistics/right"),
        ("transformers/full/right", "transformers/repr_default/right"),
    ],
)
def test_equal_statistics_prove_nothing(tmp_path: Path, reference: str, candidate: str) -> None:
    outcome, comparison = compared(tmp_path, reference, candidate)
    assert (outcome.code, comparison["verdict"]) == (1, "NOT_REFUTED")


def test_a_statistic_of_one_tool_is_held_against_the_tensor_of_another(tmp_path: Path) -> None:
    """The tensors of the right run, and the statistics of one that is right, or whose heads are rolled."""
    kept = "velocity", "blocks.0.mlp", "blocks.0.attn", "blocks.0.attn.heads"
    only = ("--rename", rf"^(?!({'|'.join(map(re.escape, kept))})$).*$=")
    _, right = compared(tmp_path / "right", "msprobe/tensor/right", "msprobe/statistics/right", *only)
    assert right["verdict"] == "NOT_REFUTED"
    _, wrong = compared(tmp_path / "wrong", "msprobe/tensor/right", "msprobe/statistics/permuted", *only)
    assert (wrong["verdict"], wrong["first"]["site"]) == ("DIVERGED", "blocks.0.attn")


@pytest.mark.parametrize(
    "sample", ["msprobe/md5/right", "sglang/right", "polygraphy/right.json", "hand/flat/right.npz"]
)
def test_what_is_equal_by_digest_is_identical(tmp_path: Path, sample: str) -> None:
    outcome, comparison = compared(tmp_path, sample, sample)
    assert (outcome.code, comparison["verdict"]) == (0, "IDENTICAL")


def test_formats_of_one_run_agree_bit_for_bit(tmp_path: Path) -> None:
    outcome, _ = compared(tmp_path, "hand/flat/right.pt", "hand/flat/right.safetensors")
    assert outcome.code == 0


def test_what_the_source_cannot_tell_stands_in_the_comparison(tmp_path: Path) -> None:
    _, comparison = compared(tmp_path, "msprobe/statistics/right", "msprobe/statistics/right")
    told = read_manifest(tmp_path / "candidate").notes
    assert any("15 inputs" in note for note in told)
    assert all(any(note in line for line in comparison["notes"]) for note in told)


@pytest.mark.parametrize(("site", "code"), [("x_input", 1), ("wm_output", 2)])
def test_a_tensor_that_is_named_an_input_is_compared_as_one(tmp_path: Path, site: str, code: int) -> None:
    """The input is the same on both sides, and the rest is wrong; what differs as an input gives no score."""
    rename = ("--rename", f"^{site}$=input.x")
    outcome, _ = compared(tmp_path, "hand/stacked/right.pt", "hand/stacked/permuted.pt", *rename)
    assert outcome.code == code


def test_options_become_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(r"^blocks\.=transformer.blocks." + "\n")
    outcome = run(
        *("import", SAMPLES / "fastvideo/right.jsonl", "--out", tmp_path / "out", "--units-from", "call"),
        *("--phase", "denoise", "--family", "waypoint", "--rename", rules, "--rename", "out_proj$=gate_proj"),
    )
    assert outcome.code == 0, outcome
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.units, manifest.family, manifest.numerics) == (2, "waypoint", {"dtype": "fp32"})
    lines = [json.loads(line) for line in (tmp_path / "out" / "activations.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"denoise"}
    assert "transformer.blocks.0.attn.gate_proj" in {line["site"] for line in lines}


def test_one_run_of_a_file_and_no_tensors(tmp_path: Path) -> None:
    trace = SAMPLES / "fastvideo/right.appended.jsonl"
    outcome = run("import", trace, "--out", tmp_path / "out", "--run", 1, "--dtype", "fp32")
    assert outcome.code == 0, outcome
    outcome = run("import", SAMPLES / "hand/flat/right.pt", "--out", tmp_path / "out", "--no-tensors")
    assert outcome.code == 0, outcome
    assert not (tmp_path / "out" / TENSORS_NAME).exists()


@pytest.mark.parametrize(
    ("sample", "options"),
    [
        ("fastvideo/right.appended.jsonl", ("--dtype", "fp32")),
        ("fastvideo/right.defaults.jsonl", ()),
        ("torch_debug_mode/right.norm.txt", ()),
        ("absent", ()),
        ("hand/flat/right.pt", ("--family", "absent")),
        ("hand/flat/right.pt", ("--rename", "[=a")),
        ("hand/flat/right.pt", ("--rename", ".*=a")),
        ("hand/flat/right.pt", ("--units-from", "call", "--steps-from", "call")),
        ("hand/flat/right.pt", ("--branches", "")),
        ("hand/flat/right.pt", ("--branches", "cond", " ")),
        ("hand/flat/right.pt", ("--branches", "a#1", "b")),
        ("hand/flat/right.pt", ("--phase", "")),
        ("hand/flat/right.pt", ("--dtype", "")),
        ("hand/flat/right.pt", ("--rank", "")),
        ("hand/flat/right.pt", ("--rename", "")),
        ("hand/flat/right.pt", ("--units-along", "")),
        ("hand/flat/right.pt", ("--steps-along", "")),
        ("hand/flat/right.pt", ("--steps-per-unit", -1)),
        ("hand/flat/right.pt", ("--run", 1)),
        ("fastvideo/right.appended.jsonl", ("--dtype", "fp32", "--run", -1)),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, sample: str, options: tuple[object, ...]) -> None:
    assert refused("import", SAMPLES / sample, "--out", tmp_path / "out", *options)["do"]


def test_a_source_is_not_replaced_by_its_dump(tmp_path: Path) -> None:
    assert run("import", SAMPLES / "hand/flat/right.pt", "--out", tmp_path / "out").code == 0
    content = (tmp_path / "out" / TENSORS_NAME).read_bytes()
    refused("import", tmp_path / "out" / TENSORS_NAME, "--out", tmp_path / "out")
    assert (tmp_path / "out" / TENSORS_NAME).read_bytes() == content
    again = run("import", tmp_path / "out" / TENSORS_NAME, "--out", tmp_path / "again")
    assert again.code == 0, again
    assert run("diff", tmp_path / "out", tmp_path / "again").code == 0


def test_a_folder_with_other_things_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    refused("import", SAMPLES / "hand/flat/right.pt", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "options",
    [("--run", 0, "--rename", ".*="), ("--units-from", "call", "--rename", ".*=a"), ("--dtype", "fp32", "--rank", 7)],
)
def test_an_earlier_dump_stays_whole_until_the_new_one_is(tmp_path: Path, options: tuple[object, ...]) -> None:
    out = tmp_path / "out"
    assert run("import", SAMPLES / "hand/flat/right.pt", "--out", out).code == 0
    before = contents(out)
    refused("import", SAMPLES / "fastvideo/right.appended.jsonl", "--out", out, *options)
    assert contents(out) == before


def test_a_new_dump_replaces_all_of_an_earlier_one(tmp_path: Path) -> None:
    """Pictures, records and tensors are those of the new one alone; what is not of a dump stays."""
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    pictures = ROOT / "fixtures" / "golden" / "base" / "frames.safetensors"
    options = ("--family", "waypoint", "--dtype", "fp32", "--rename", "/frame=/decode0/frame")
    assert run("import", SAMPLES / "hand/flat/right.pt", "--out", out).code == 0
    (out / "mine").write_text("")
    for folder in (out, fresh):
        assert run("import", pictures, "--out", folder, *options).code == 0
    own = contents(fresh)
    assert any(name.endswith(".png") for name in own)
    assert contents(out).keys() - {"mine"} == own.keys()
    assert run("diff", fresh, out).code == 0
    assert run("import", SAMPLES / "hand/flat/right.pt", "--out", out, "--no-tensors").code == 0
    assert contents(out).keys() == {"mine", "manifest.json", "activations.jsonl"}


@pytest.mark.parametrize("changes", [{"mean": float("nan")}, {"min": 3.0, "max": -3.0}], ids=["NaN", "extremes"])
def test_statistics_that_contradict_each_other_are_told(tmp_path: Path, changes: dict[str, float]) -> None:
    """A trace whose mean is NaN, and whose extremes are finite; or whose extremes have changed places."""
    lines = [json.loads(line) for line in (SAMPLES / "fastvideo/right.jsonl").read_text().splitlines()]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines[3] |= changes
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("same", "wrong"):
        outcome = run("import", tmp_path / f"{name}.jsonl", "--out", tmp_path / name)
        assert outcome.code == 0, outcome
    assert not [note for note in read_manifest(tmp_path / "same").notes if lines[3]["module"] in note]
    assert any(lines[3]["module"] in note for note in read_manifest(tmp_path / "wrong").notes)
    outcome = run("diff", tmp_path / "wrong", tmp_path / "wrong", "--json", tmp_path / "diff.json")
    assert outcome.code == 1
    assert lines[3]["module"] in outcome.out
    outcome = run("diff", tmp_path / "same", tmp_path / "wrong", "--json", tmp_path / "diff.json")
    comparison = json.loads((tmp_path / "diff.json").read_text())
    assert outcome.code == 1
    assert comparison["verdict"] == "DIVERGED"
    assert comparison["first"]["site"].startswith(lines[3]["module"])
