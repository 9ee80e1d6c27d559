from pathlib import Path

import pytest
import torch

from tests.harness.observations import FAMILY
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.judge.diff import Dump, diff_dumps, open_dump
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.truth_diff import with_truth
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

BF16 = Judgement(fixed_tolerance(FAMILY, "bf16"))


def compared(candidate: str, tiny: Checkpoint, scenario: Scenario, *, three_way: bool = True) -> Comparison:
    bf16, fp32 = (Numerics(DTYPES[dtype], torch.device("cpu")) for dtype in ("bf16", "fp32"))
    sides = Side("eager", load("eager", tiny, bf16)), Side(candidate, load(candidate, tiny, bf16))
    truth = load("eager", tiny, fp32) if three_way else None
    return lockstep(*sides, tiny, scenario, BF16, truth=truth)


@pytest.fixture(scope="module")
def candidate(tiny: Checkpoint, tiny_scenario: Scenario) -> Comparison:
    return compared("candidate", tiny, tiny_scenario)


def dumped(folder: Path, dtype: str, name: str, tiny: Checkpoint, scenario: Scenario) -> Dump:
    numerics = Numerics(DTYPES[dtype], torch.device("cpu"))
    adapter = load(name, tiny, numerics)
    writer = DumpWriter(folder, describe_run(name, adapter, numerics, tiny, scenario))
    with writer, recording(adapter.sites(), writer) as recorder:
        run(adapter, scenario, tiny, recorder)
    return open_dump(folder)


def distances(comparison: Comparison, site: str) -> list[tuple[float | None, float | None]]:
    return [(rung.reference_to_truth, rung.candidate_to_truth) for rung in comparison.sites if rung.site == site]


def test_either_side_of_a_bf16_run_has_a_distance_from_fp32(candidate: Comparison) -> None:
    for ours, theirs in distances(candidate, "latent") + distances(candidate, "velocity"):
        assert ours is not None
        assert theirs is not None
        assert ours != theirs
        assert 1e-3 < theirs < 0.3
        assert 0.5 < ours / theirs < 2


def test_the_distances_are_no_verdict(candidate: Comparison, tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    alone = compared("candidate", tiny, tiny_scenario, three_way=False)
    assert alone.verdict is candidate.verdict
    assert alone.counts == candidate.counts
    assert set(distances(alone, "latent")) == {(None, None)}


def test_the_reference_is_as_far_from_the_truth_as_itself(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    comparison = compared("eager", tiny, tiny_scenario)
    assert all(ours == theirs for ours, theirs in distances(comparison, "velocity"))


def test_inputs_have_none(candidate: Comparison) -> None:
    """In bf16 a sigma is another number, which is no error of anyone's."""
    assert set(distances(candidate, "input.sigma")) == {(None, None)}


def test_the_final_latent_and_the_frame_are_told_in_a_line_each(candidate: Comparison) -> None:
    lines = [line.split()[2] for line in comparison_lines(candidate) if "from fp32:" in line]
    assert lines == ["latent", "frame"]


def test_three_dumps_tell_the_same_as_three_runs(
    candidate: Comparison, tiny: Checkpoint, tiny_scenario: Scenario, tmp_path: Path
) -> None:
    truth = dumped(tmp_path / "truth", "fp32", "eager", tiny, tiny_scenario)
    sides = [dumped(tmp_path / name, "bf16", name, tiny, tiny_scenario) for name in ("eager", "candidate")]
    comparison = diff_dumps(*sides, BF16)
    with_distances = with_truth(comparison, truth, *sides)
    assert with_distances.verdict is comparison.verdict
    assert set(distances(with_distances, "input.sigma")) == {(None, None)}
    for site in ("velocity", "latent"):
        for exact, estimated in zip(distances(candidate, site), distances(with_distances, site), strict=True):
            # Good to 9 % each: three standard deviations.
            assert estimated == pytest.approx(exact, rel=0.3)


def test_dumps_without_a_score_get_no_distances(tiny: Checkpoint, tiny_scenario: Scenario, tmp_path: Path) -> None:
    truth = dumped(tmp_path / "truth", "fp32", "eager", tiny, tiny_scenario)
    candidate = dumped(tmp_path / "candidate", "bf16", "eager", tiny, tiny_scenario)
    unlike = diff_dumps(truth, candidate, BF16)
    assert unlike.reason is not None
    assert with_truth(unlike, truth, truth, candidate) == unlike
