"""The parity command: what it writes, how it ends, and sweeps by plan."""

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, refused, run, start
from tests.harness import implementations
from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.main import parse
from waypoint_parity.harness.cli.parity import ParityCommand
from waypoint_parity.harness.cli.quick import QuickCommand
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.result import read_blame
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.sweep.summary import Summary, read_summary

INTERRUPTED = f"{implementations.__name__}:Interrupted"
LOUDER = f"{implementations.__name__}:Louder"
SHORT = ("--schedule", "single-step", "--seed", 1, "--prompt-mask", "zeroed")


@pytest.fixture
def inputs(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "out", "--jobs", 1)


def summary_of(out: Path) -> Summary:
    return read_summary(out / "summary.json")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("candidate", "options", "code", "verdict"),
    [("candidate", ["--teacher-forced"], 0, Verdict.WITHIN_NOISE), (LOUDER, ["--no-blame"], 1, Verdict.DIVERGED)],
)
def test_a_run_writes_its_documents_and_ends_with_its_verdict(
    inputs: tuple[object, ...], tmp_path: Path, candidate: str, options: list[str], code: int, verdict: Verdict
) -> None:
    outcome = run("parity", "--candidate", candidate, *inputs, *SHORT, *options)
    assert outcome.code == code, outcome
    assert f"{verdict}: 1 variants" in outcome.out
    out = tmp_path / "out"
    summary = summary_of(out)
    assert summary.verdict is verdict
    assert list(summary.variants) == ["short_single-step_seed1_zeroed-padding"]
    assert len(summary.teacher_forced) == options.count("--teacher-forced")
    assert (out / "summary.md").read_text().startswith(f"# Parity: {verdict}\n")
    assert "<testsuites" in (out / "junit.xml").read_text()
    assert verdict in (out / "report.md").read_text()
    assert verdict in (out / "report.html").read_text()


def test_a_failing_cell_is_named_to_other_commands(inputs: tuple[object, ...], tmp_path: Path) -> None:
    two = ("--schedule", "single-step", "--seed", 1, 2, "--prompt-mask", "zeroed", "--units", 1)
    outcome = run("parity", "--candidate", LOUDER, *inputs, *two, "--no-blame", "--no-exact")
    assert outcome.code == 1, outcome
    out, cells = tmp_path / "out", summary_of(tmp_path / "out").cells
    table = outcome.out.splitlines()[:4]
    assert max(map(len, table)) <= 100
    failing = list(cells)
    assert len(failing) == 2
    name = failing[1]
    # What the row prints runs the same session of the same candidate, alone.
    (again,) = [line for line in outcome.out.splitlines() if line.startswith("  again:") and "--seed 2" in line]
    words = shlex.split(again)[2:]
    assert words == cells[name].command
    parsed = parse(words)
    assert isinstance(parsed, ParityCommand)
    (planned,) = parsed.prepare()[1]
    assert (planned.candidate, planned.factors) == (LOUDER, cells[name].factors)
    assert planned.scenario.digest == read_scenario(out / cells[name].folder / "scenario.safetensors").digest
    of_cell = ("--cell", name, "--run", out)
    assert run("dump", *of_cell, "--out", tmp_path / "dump").code == 0
    assert read_manifest(tmp_path / "dump").scenario_digest == planned.scenario.digest
    assert run("blame", *of_cell, "--out", tmp_path / "blame", "--no-gains").code == 1
    assert read_blame(tmp_path / "blame" / "blame.json").causes[0].part == "mlp"
    assert run("report", out, "--cell", name).code == 0
    assert failing[0] not in (out / f"{name}.md").read_text()
    for words in (("dump", "--out", tmp_path / "dump"), ("blame",), ("report", out)):
        where = ("--cell", "no such cell") if words[0] == "report" else ("--cell", "no such cell", "--run", out)
        assert "no such cell" in refused(*words, *where)["what"]


def test_a_first_verdict_is_parity_itself(tmp_path: Path) -> None:
    # Seconds, but minutes on a machine that is busy.
    process = start(tmp_path, "quick", "--candidate", LOUDER, "--out", tmp_path)
    process.join(timeout=500)
    process.kill()
    assert process.exitcode == 1, (tmp_path / "err").read_text()
    (comparison,) = summary_of(tmp_path).variants.values()
    assert comparison.first is not None
    assert comparison.first.site == "transformer.blocks.1.mlp"


def test_an_installation_without_the_golden_checkpoint_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "GOLDEN", tmp_path / "golden")
    with pytest.raises(UserError, match="golden: is not there"):
        QuickCommand().as_parity()


@pytest.mark.parametrize("units", [0, 3])
def test_no_more_units_can_be_run_than_there_are(inputs: tuple[object, ...], units: int) -> None:
    assert f"--units {units}" in refused("parity", *inputs, "--units", units)["what"]


def test_a_run_that_diverges_names_the_cause(inputs: tuple[object, ...], tmp_path: Path) -> None:
    outcome = run("parity", "--candidate", LOUDER, *inputs, *SHORT)
    assert outcome.code == 1, outcome
    summary = summary_of(tmp_path / "out")
    assert summary.blamed == "short_single-step_seed1_zeroed-padding"
    assert "born in: transformer\n  1. mlp of block 1 (mlp): " in outcome.out
    assert "1. mlp of block 1 (mlp): " in (tmp_path / "out" / "summary.md").read_text()
    assert "mlp of block 1" in (tmp_path / "out" / "report.md").read_text()


def test_a_dump_takes_the_candidates_place(inputs: tuple[object, ...], tmp_path: Path) -> None:
    assert run("dump", "candidate", *inputs[:4], "--out", tmp_path / "dump", "--tensors").code == 0
    outcome = run("parity", "--candidate", f"dump:{tmp_path / 'dump'}", *inputs, "--as-recorded")
    assert outcome.code == 0, outcome
    (comparison,) = summary_of(tmp_path / "out").variants.values()
    assert comparison.verdict is Verdict.WITHIN_NOISE
    # Nothing follows what was recorded: every site is judged by itself, in every unit.
    assert comparison.mathematics is None
    assert comparison.precision is not None
    assert comparison.precision.units == [0, 1]
    swept = refused("parity", "--candidate", f"dump:{tmp_path / 'dump'}", *inputs, *SHORT)
    assert "cannot be swept" in swept["what"]


@pytest.mark.slow
def test_a_plan_is_swept_and_its_factors_told(inputs: tuple[object, ...], tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[factors]\nimplementation = ["eager", "{LOUDER}"]\nschedule = ["single-step"]\nseed = [1, 2]\n'
        'mask = ["none"]\n[[exclude]]\nimplementation = "eager"\nseed = 2\n'
    )
    outcome = run("parity", "--plan", plan, *inputs, "--no-blame")
    assert outcome.code == 1, outcome
    assert f"2 of 3 cells fail: only with implementation {LOUDER}, at every seed" in outcome.out
    assert len(summary_of(tmp_path / "out").cells) == 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("implementations", "code", "told"),
    [
        (("eager", INTERRUPTED), 70, "out of luck"),
        (("eager", "eager+fused-attentoin"), 2, "has no such option"),
    ],
)
def test_a_cell_that_cannot_be_run_is_told_and_stops_no_other(
    inputs: tuple[object, ...], tmp_path: Path, implementations: tuple[str, ...], code: int, told: str
) -> None:
    outcome: Outcome = run("parity", "--candidate", *implementations, *inputs, *SHORT)
    assert outcome.code == code, outcome
    assert "FAILED TO RUN" in outcome.out
    assert told in outcome.out
    assert len(summary_of(tmp_path / "out").variants) == 1
    assert told in (tmp_path / "out" / "summary.md").read_text()


def test_where_no_cell_can_be_run_there_is_one_message(inputs: tuple[object, ...]) -> None:
    assert "no such option" in refused("parity", "--candidate", "eager+fused-attentoin", *inputs, *SHORT)["what"]


@pytest.mark.slow
def test_levels_of_any_factor_are_swept(inputs: tuple[object, ...], tmp_path: Path) -> None:
    levels = ("schedule=single-step", "seed=7", "mask=zeroed", "policy=global", "policy=sliced")
    outcome = run("parity", "--candidate", "eager", *inputs, "--vary", *levels)
    assert outcome.code == 0, outcome
    summary = summary_of(tmp_path / "out")
    assert {name: cell.factors["policy"] for name, cell in summary.cells.items()} == {
        f"short_single-step_seed7_zeroed-padding_{policy}-noise": policy for policy in ("global", "sliced")
    }


@pytest.mark.parametrize(
    "text",
    ["[factor]\nseed = [1]", "seed = 1", '[factors]\ndtype = ["fp16"]', "[factors]\nseed = []"],
    ids=["no table of it", "no factor of it", "no dtype", "no level"],
)
def test_a_plan_that_is_none_is_refused(inputs: tuple[object, ...], tmp_path: Path, text: str) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    assert refused("parity", "--plan", plan, *inputs)["what"] == f"{plan}: cannot be read as a plan"


def test_a_report_is_written_of_a_run_that_is_there(inputs: tuple[object, ...], tmp_path: Path) -> None:
    assert run("parity", "--candidate", "eager", *inputs, *SHORT).code == 0
    for name in ("report.html", "report.md"):
        (tmp_path / "out" / name).unlink()
    outcome = run("report", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert str(tmp_path / "out" / "report.html") in outcome.out
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "report.md").is_file()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "summary.json" in refused("report", tmp_path)["what"]


@pytest.fixture
def told(tmp_path: Path) -> str:
    """An implementation that says whether it was to compile itself."""
    (tmp_path / "told.py").write_text(
        "from dataclasses import replace\n"
        "from waypoint_parity.reference.eager.adapter import EagerAdapter\n\n"
        "class Told(EagerAdapter):\n"
        "    def __init__(self, checkpoint, numerics):\n"
        "        super().__init__(checkpoint, replace(numerics, compiled=False))\n"
        "        self.told = str(numerics.compiled)\n\n"
        "    def describe(self):\n"
        "        return super().describe() | {'told': self.told}\n"
    )
    return f"{tmp_path / 'told.py'}:Told"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("asked", "compiled"),
    [
        ([], []),
        (["--compiled", "candidate"], ["candidate"]),
        pytest.param(["--compiled", "reference"], ["reference"], marks=pytest.mark.slow),
        pytest.param(["--compiled"], ["reference", "candidate"], marks=pytest.mark.slow),
        (["--compiled", "both"], ["reference", "candidate"]),
    ],
)
def test_either_side_can_be_compiled(
    inputs: tuple[object, ...], told: str, tmp_path: Path, asked: list[str], compiled: list[str]
) -> None:
    outcome = run("parity", "--reference", told, "--candidate", told, *inputs, *SHORT, "--no-exact", *asked)
    assert outcome.code == 0, outcome
    summary = summary_of(tmp_path / "out")
    (cell,) = summary.cells.values()
    for side in ("reference", "candidate"):
        manifest = read_manifest(tmp_path / "out" / cell.folder / side)
        assert manifest.description["told"] == str(side in compiled)
        assert manifest.numerics["compiled"] == str(side in compiled).lower()
    assert summary.numerics["compiled"] == (", ".join(compiled) or "false")


def test_a_candidate_is_compiled_also_where_the_reference_cannot_be(inputs: tuple[object, ...], told: str) -> None:
    sides = ("--reference", "eager", "--candidate", told)
    assert run("parity", *sides, *inputs, *SHORT, "--compiled", "candidate").code == 0
    assert run("parity", *sides, *inputs, *SHORT, "--compiled").code == 2


@pytest.mark.slow
def test_another_side_compiled_is_another_cell(inputs: tuple[object, ...], told: str, tmp_path: Path) -> None:
    for asked in ("reference", "candidate", "both"):
        outcome = run("parity", "--reference", told, "--candidate", told, *inputs, *SHORT, "--compiled", asked)
        assert outcome.code == 0, outcome
        assert summary_of(tmp_path / "out").reused == 0
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 3


@pytest.mark.slow
def test_blame_compiles_the_side_that_it_is_told(inputs: tuple[object, ...], told: str, tmp_path: Path) -> None:
    sides = ("--reference", "eager", "--candidate", told, *inputs[:4], "--out", tmp_path / "blame")
    assert run("blame", *sides, "--compiled", "candidate").code == 0
    assert run("blame", *sides, "--compiled", "reference").code == 2
