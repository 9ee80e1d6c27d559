from pathlib import Path

import msgspec
import pytest

from tests.harness import implementations, rollouts
from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.result import BLAME_NAME, read_blame
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, read_investigation
from waypoint_parity.harness.judge.comparison import (
    COMPARISON_NAME,
    FREE_RUNNING,
    TEACHER_FORCED,
    Comparison,
    Verdict,
    read_comparison,
)
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.sweep.executors import processes
from waypoint_parity.harness.sweep.parity import ParityRun, run_parity
from waypoint_parity.harness.sweep.summary import (
    SUMMARY_NAME,
    SUMMARY_SCHEMA,
    TEACHER_FORCED_NAME,
    Summary,
    read_summary,
)

LOUDER = f"{implementations.__name__}:Louder"
INTERRUPTED = f"{implementations.__name__}:Interrupted"
SWEPT = {"schedule": ("single-step",), "seed": ("1", "2"), "mask": ("zeroed",)}
CELLS = ["short_single-step_seed1_zeroed-padding", "short_single-step_seed2_zeroed-padding"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def finished(tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, out: Path) -> Summary:
    """The reference against the candidate over two variants."""
    return run_parity(tiny_run(tiny, out), tiny_cells(tiny, short, fp32_on_cpu, **SWEPT))


def test_every_variant_is_run_and_judged(finished: Summary, tiny: Checkpoint) -> None:
    assert list(finished.variants) == list(finished.cells) == CELLS
    assert finished.verdict is Verdict.WITHIN_NOISE
    assert finished
    assert all(comparison.compared == comparison.expected > 0 for comparison in finished.variants.values())
    assert (finished.schema, finished.checkpoint_digest) == (SUMMARY_SCHEMA, tiny.digest)
    assert finished.effects is not None
    assert finished.effects.sentences == ["no cell of 2 fails"]


def test_the_summary_is_on_disk_as_it_was_returned(finished: Summary, out: Path) -> None:
    assert read_summary(out / SUMMARY_NAME) == finished


@pytest.mark.parametrize("cell", CELLS)
def test_the_folder_of_a_cell_holds_its_inputs_dumps_and_comparison(finished: Summary, out: Path, cell: str) -> None:
    folder = out / finished.cells[cell].folder
    assert read_comparison(folder / COMPARISON_NAME) == finished.variants[cell]
    scenario = read_scenario(folder / "scenario.safetensors")
    for role, name in (("reference", "eager"), ("candidate", "candidate")):
        manifest = read_manifest(folder / role)
        assert manifest.implementation == name
        assert manifest.scenario_digest == scenario.digest
        assert cell.endswith(str(manifest.variant))
    assert len(read_investigation(folder / INVESTIGATION_NAME).pictures) == scenario.units


def test_a_broken_comparison_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / COMPARISON_NAME).write_bytes(b'{"schema": "waypoint-parity/comparison/1"}')
    with pytest.raises(UserError, match=r"comparison\.json: cannot be read"):
        read_comparison(tmp_path / COMPARISON_NAME)


def test_an_implementation_can_be_run_against_itself(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=("eager",))
    assert run_parity(tiny_run(tiny, tmp_path), cells).verdict is Verdict.IDENTICAL


def test_what_was_made_is_not_run_again_unless_asked_for(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=("eager",), **SWEPT)
    first = run_parity(tiny_run(tiny, tmp_path), cells[:1])
    folder = tmp_path / first.cells[cells[0].name].folder
    made = (folder / COMPARISON_NAME).stat().st_mtime_ns
    second = run_parity(tiny_run(tiny, tmp_path), cells)
    assert list(second.cells) == CELLS
    assert (folder / COMPARISON_NAME).stat().st_mtime_ns == made
    assert run_parity(tiny_run(tiny, tmp_path, fresh=True), cells[:1]).variants == first.variants
    assert (folder / COMPARISON_NAME).stat().st_mtime_ns != made


def test_another_way_to_run_is_another_cell(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=("eager",))
    folders = set()
    for rules in ({}, {"teacher_forced": True}, {"allow_observer_effect": True}):
        (run,) = run_parity(tiny_run(tiny, tmp_path, **rules), cells).cells.values()
        folders.add(run.folder)
    assert len(folders) == 3


def test_several_candidates_run_in_processes_as_in_one(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=("candidate", LOUDER), schedule=("single-step",))
    alone = run_parity(tiny_run(tiny, tmp_path / "one"), cells)
    run = ParityRun(tiny, tiny_run(tiny, tmp_path).rules, tmp_path / "two", processes(2), at_once=2)
    together = run_parity(run, cells)
    assert together.variants == alone.variants
    assert [run.digest for run in together.cells.values()] == [run.digest for run in alone.cells.values()]
    assert alone.verdict is Verdict.DIVERGED
    assert alone.effects is not None
    assert alone.effects.sentences == [
        f"1 of 2 cells fail: only with implementation {LOUDER}, at the one setting of everything else"
    ]


def test_the_first_cell_that_diverges_is_searched_for_its_causes(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=("candidate", LOUDER), schedule=("single-step",))
    told: list[str] = []
    summary = run_parity(tiny_run(tiny, tmp_path, blame=True), cells, told.append)
    assert (summary.blamed, summary.born) == (cells[1].name, "transformer")
    (brief,) = summary.causes
    assert brief.startswith("mlp of block 1 (mlp): ")
    assert told[:2] == [cell.name for cell in cells]
    assert all(name.startswith("blame: ") for name in told[2:])
    folder = tmp_path / summary.cells[cells[1].name].folder
    (cause,) = read_blame(folder / "blame" / BLAME_NAME).causes
    assert (cause.part, cause.blocks) == ("mlp", [1])
    birth = read_investigation(folder / INVESTIGATION_NAME).birth
    assert birth is not None
    assert birth.place == "transformer"
    told.clear()
    assert run_parity(tiny_run(tiny, tmp_path, blame=True), cells, told.append).blamed == summary.blamed
    assert told == [cell.name for cell in cells]


def test_a_cell_that_fails_stops_no_other(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=(INTERRUPTED, "eager"))
    summary = run_parity(tiny_run(tiny, tmp_path), cells)
    assert list(summary.variants) == [cells[1].name]
    (failure,) = summary.failures
    assert failure.name == cells[0].name
    assert "RuntimeError: out of luck" in failure.message
    assert failure.factors["implementation"] == INTERRUPTED
    assert (failure.mistake, failure.traceback) == (False, None)
    assert summary.verdict is Verdict.IDENTICAL
    assert not summary


def test_where_all_fail_for_one_reason_of_the_users_it_is_raised(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=(f"{rollouts.__name__}:Sealed",), **SWEPT)
    with pytest.raises(UserError, match="cannot be taught"):
        run_parity(tiny_run(tiny, tmp_path, teacher_forced=True), cells)
    assert not (tmp_path / SUMMARY_NAME).exists()


def test_every_variant_is_run_a_second_time_taught_by_the_reference(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, tiny_scenario, fp32_on_cpu, implementations=(f"{rollouts.__name__}:Fading",))
    summary = run_parity(tiny_run(tiny, tmp_path, teacher_forced=True), cells)
    for comparisons, file, rollout in (
        (summary.variants, COMPARISON_NAME, FREE_RUNNING),
        (summary.teacher_forced, TEACHER_FORCED_NAME, TEACHER_FORCED),
    ):
        ((cell, comparison),) = comparisons.items()
        assert comparison.rollout == rollout
        assert comparison.verdict is Verdict.DIVERGED
        assert read_comparison(tmp_path / summary.cells[cell].folder / file) == comparison
    (free,), (forced,) = summary.variants.values(), summary.teacher_forced.values()
    assert (free.horizon, forced.horizon) == (1, None)


def test_a_variant_is_as_good_as_its_worse_rollout(finished: Summary) -> None:
    worse = msgspec.structs.replace(finished, teacher_forced=with_verdicts(finished, Verdict.DIVERGED).variants)
    assert worse.verdict is finished.verdict is Verdict.WITHIN_NOISE  # of variants by other names
    named = msgspec.structs.replace(worse, variants=with_verdicts(finished, Verdict.IDENTICAL).variants)
    assert named.verdict is named.verdict_of("0") is Verdict.DIVERGED
    free = msgspec.structs.replace(named, variants=named.teacher_forced, teacher_forced=named.variants)
    assert free.verdict is Verdict.DIVERGED


def with_verdicts(finished: Summary, *verdicts: Verdict) -> Summary:
    comparison = next(iter(finished.variants.values()))
    variants = {str(at): msgspec.structs.replace(comparison, verdict=verdict) for at, verdict in enumerate(verdicts)}
    return msgspec.structs.replace(finished, variants=variants)


def test_a_run_is_as_good_as_its_worst_variant(finished: Summary) -> None:
    ascending = [Verdict.IDENTICAL, Verdict.WITHIN_NOISE, Verdict.MISSING, Verdict.DIVERGED, Verdict.INCOMPARABLE]
    for worst in range(len(ascending)):
        assert with_verdicts(finished, *ascending[: worst + 1]).verdict is ascending[worst]
    assert with_verdicts(finished).verdict is Verdict.INCOMPARABLE


def test_a_comparison_has_the_truth_of_its_verdict(finished: Summary) -> None:
    comparison: Comparison = finished.variants[CELLS[0]]
    for verdict in Verdict:
        assert bool(msgspec.structs.replace(comparison, verdict=verdict)) is verdict.passes
