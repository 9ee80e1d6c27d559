import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.comparison import (
    COMPARISON_NAME,
    FREE_RUNNING,
    TEACHER_FORCED,
    Comparison,
    Verdict,
    read_comparison,
)
from harness.errors import UserError
from harness.judgement import fixed_tolerance
from harness.parity import (
    SUMMARY_NAME,
    SUMMARY_SCHEMA,
    TEACHER_FORCED_NAME,
    Cell,
    ParityRun,
    Summary,
    plan,
    run_parity,
)
from harness.records import read_manifest
from harness.scenario import Scenario, read_scenario
from harness.standards import Standards
from harness.variant import Variant, grid
from tests.harness import implementations, rollouts

LOUDER = f"{implementations.__name__}:Louder"


@pytest.fixture(scope="module")
def short(tiny_scenario: Scenario) -> Scenario:
    """One frame of the tiny scenario."""
    names = ("noise", "button", "mouse", "scroll")
    return dataclasses.replace(tiny_scenario, **{name: getattr(tiny_scenario, name)[:1] for name in names})


def parity_run(
    tiny: Checkpoint, numerics: Numerics, out: Path, candidate: str, *, teacher_forced: bool = False
) -> ParityRun:
    standards = Standards(fixed_tolerance("fp32"))
    return ParityRun("eager", candidate, tiny, numerics, standards, out, teacher_forced=teacher_forced)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def finished(tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, out: Path) -> Summary:
    """The reference against the candidate over two variants."""
    cells = plan(tiny, [(short, grid(("single-step",), (1, 2), ("zeroed",)))])
    return run_parity(parity_run(tiny, fp32_on_cpu, out, "candidate"), cells)


CELLS = ["short_single-step_seed1_zeroed-padding", "short_single-step_seed2_zeroed-padding"]


def test_every_variant_is_run_and_judged(finished: Summary, tiny: Checkpoint) -> None:
    assert list(finished.variants) == CELLS
    assert finished.verdict is Verdict.WITHIN_NOISE
    assert finished
    assert all(comparison.compared == comparison.expected > 0 for comparison in finished.variants.values())
    assert (finished.schema, finished.checkpoint_digest) == (SUMMARY_SCHEMA, tiny.digest)


def test_the_summary_is_on_disk_as_it_was_returned(finished: Summary, out: Path) -> None:
    assert msgspec.json.decode((out / SUMMARY_NAME).read_bytes(), type=Summary) == finished


@pytest.mark.parametrize("cell", CELLS)
def test_the_folder_of_a_variant_holds_its_inputs_dumps_and_comparison(finished: Summary, out: Path, cell: str) -> None:
    assert read_comparison(out / cell / COMPARISON_NAME) == finished.variants[cell]
    scenario = read_scenario(out / cell / "scenario.safetensors")
    for role, name in (("reference", "eager"), ("candidate", "candidate")):
        manifest = read_manifest(out / cell / role)
        assert manifest.implementation == name
        assert manifest.scenario_digest == scenario.digest
        assert cell.endswith(str(manifest.variant))


def test_a_broken_comparison_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / COMPARISON_NAME).write_bytes(b'{"schema": "waypoint-parity/comparison/1"}')
    with pytest.raises(UserError, match=r"comparison\.json: cannot be read"):
        read_comparison(tmp_path / COMPARISON_NAME)


def test_an_implementation_can_be_run_against_itself(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    summary = run_parity(parity_run(tiny, fp32_on_cpu, tmp_path, "eager"), plan(tiny, [(short, [Variant()])]))
    assert summary.verdict is Verdict.IDENTICAL


def test_a_divergence_in_one_variant_fails_the_run(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    summary = run_parity(parity_run(tiny, fp32_on_cpu, tmp_path, LOUDER), plan(tiny, [(short, [Variant()])]))
    assert summary.verdict is Verdict.DIVERGED
    assert not summary


def test_every_variant_is_run_a_second_time_taught_by_the_reference(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    fading = f"{rollouts.__name__}:Fading"
    run = parity_run(tiny, fp32_on_cpu, tmp_path, fading, teacher_forced=True)
    summary = run_parity(run, plan(tiny, [(tiny_scenario, [Variant()])]))
    for comparisons, file, rollout in (
        (summary.variants, COMPARISON_NAME, FREE_RUNNING),
        (summary.teacher_forced, TEACHER_FORCED_NAME, TEACHER_FORCED),
    ):
        ((cell, comparison),) = comparisons.items()
        assert comparison.rollout == rollout
        assert comparison.verdict is Verdict.DIVERGED
        assert read_comparison(tmp_path / cell / file) == comparison
    (free,), (forced,) = summary.variants.values(), summary.teacher_forced.values()
    assert (free.horizon, forced.horizon) == (1, None)
    run_parity(parity_run(tiny, fp32_on_cpu, tmp_path, fading), plan(tiny, [(tiny_scenario, [Variant()])]))
    assert not (tmp_path / cell / TEACHER_FORCED_NAME).exists()


def test_an_implementation_that_cannot_be_taught_is_refused_before_anything_runs(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    run = parity_run(tiny, fp32_on_cpu, tmp_path, f"{rollouts.__name__}:Sealed", teacher_forced=True)
    with pytest.raises(UserError, match="cannot be taught"):
        run_parity(run, plan(tiny, [(short, [Variant()])]))
    assert not list(tmp_path.iterdir())


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


def test_a_run_that_fails_leaves_no_summary_of_an_earlier_one(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    (tmp_path / SUMMARY_NAME).write_text("{}")
    run = parity_run(tiny, fp32_on_cpu, tmp_path, f"{implementations.__name__}:Interrupted")
    with pytest.raises(RuntimeError, match="out of luck"):
        run_parity(run, plan(tiny, [(short, [Variant()])]))
    assert not (tmp_path / SUMMARY_NAME).exists()


def test_progress_is_told_of_every_cell(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    told: list[str] = []

    def progress(cells: Sequence[Cell]) -> Iterable[Cell]:
        for cell in cells:
            told.append(cell.name)
            yield cell

    run_parity(
        parity_run(tiny, fp32_on_cpu, tmp_path, "eager"), plan(tiny, [(short, [Variant("single-step")])]), progress
    )
    assert told == ["short_single-step"]


def test_an_empty_sweep_is_refused(tiny: Checkpoint, short: Scenario) -> None:
    with pytest.raises(UserError, match="the sweep is empty"):
        plan(tiny, [(short, [])])


def test_a_scenario_that_does_not_fit_is_refused_before_anything_runs(base: Checkpoint, short: Scenario) -> None:
    with pytest.raises(UserError, match="does not fit"):
        plan(base, [(short, [Variant()])])


def test_cells_of_a_plan_have_folders_of_their_own(tiny: Checkpoint, short: Scenario) -> None:
    cells = plan(tiny, [(short, grid(("checkpoint", "single-step"), (1, 2), ("none", "zeroed"))), (short, [Variant()])])
    assert len(cells) == len({cell.name for cell in cells}) == 9
    assert not any("/" in cell.name for cell in cells)


def test_a_comparison_has_the_truth_of_its_verdict(finished: Summary) -> None:
    comparison: Comparison = finished.variants[CELLS[0]]
    for verdict in Verdict:
        assert bool(msgspec.structs.replace(comparison, verdict=verdict)) is verdict.passes
