from pathlib import Path

import pytest

from tests.harness.observations import FAMILY
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.judgement import fixed_tolerance
from waypoint_parity.harness.judge.noise_floor.document import NoiseFloor, floor_bounds
from waypoint_parity.harness.judge.noise_floor.harmless import EVERYTHING
from waypoint_parity.harness.judge.noise_floor.measure import (
    FEWEST_RUNS,
    RUNS_OF_A_CHANGE,
    Planned,
    against_itself,
    measure_floor,
)
from waypoint_parity.harness.judge.noise_floor.other_process import other_processes
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario

FIXED = fixed_tolerance(FAMILY, "fp32")
RUNS = 6
HERE = ["fused-attention", "merged-projections", "thread count", "noise jitter", "rounding", EVERYTHING]


@pytest.fixture(scope="module")
def changes(fp32_on_cpu: Numerics) -> list[str]:
    """What is changed, in order; another instruction set only on a processor that has one."""
    return [*other_processes(fp32_on_cpu), *HERE]


@pytest.fixture(scope="module")
def sessions(tiny: Checkpoint) -> list[Scenario]:
    """Short sessions of one kind, each with inputs of its own."""
    return [make_scenario(tiny.geometry, name="one", units=1, seed=seed) for seed in range(RUNS)]


@pytest.fixture(scope="module")
def planned() -> list[Planned]:
    """What was planned, as the progress bar was told."""
    return []


@pytest.fixture(scope="module")
def floor(tiny_folder: Path, sessions: list[Scenario], fp32_on_cpu: Numerics, planned: list[Planned]) -> NoiseFloor:
    def progress(runs: list[Planned]) -> list[Planned]:
        planned.extend(runs)
        return runs

    return measure_floor("eager", open_checkpoint(tiny_folder), fp32_on_cpu, [sessions], progress)


def test_every_change_is_run_a_few_times_and_everything_at_once_in_every_session(
    floor: NoiseFloor, planned: list[Planned], changes: list[str]
) -> None:
    counts = {change: sum(run.change == change for run in planned) for change in floor.changes}
    assert counts == {change: RUNS if change == EVERYTHING else RUNS_OF_A_CHANGE for change in changes}
    assert len(floor.sessions[0].distance_maxima) == len(floor.sessions[0].norm_maxima) == RUNS


def test_the_floor_says_what_it_was_measured_on(floor: NoiseFloor, tiny: Checkpoint, sessions: list[Scenario]) -> None:
    (session,) = floor.sessions
    assert (floor.reference, floor.numerics["dtype"], floor.checkpoint_digest) == ("eager", "fp32", tiny.digest)
    assert (session.sigmas, session.units) == (list(tiny.geometry.transformer.scheduler_sigmas), 1)
    assert session.given == ["prompt_emb", "prompt_pad_mask"]


def test_every_site_of_every_step_has_a_level_and_its_distribution(floor: NoiseFloor, changes: list[str]) -> None:
    sites = {(site.phase, site.step, site.site): site for site in floor.sessions[0].sites}
    velocity = sites["denoise", 1, "velocity"]
    assert 1e-8 < velocity.rel_l2[0] < 1e-5
    least, middle, most = velocity.quantiles["rel_l2"]
    assert 0 <= least <= middle <= most
    assert velocity.rel_l2[0] <= most
    moved = dict(zip(floor.changes, velocity.changes, strict=True))
    assert moved.keys() == set(changes)
    assert moved["second process"] == 0.0
    # What has no rounding of its own is exact.
    assert sites["cache", 0, "kv_cache.layers.0.written"].rel_l2 == [0.0]


def test_no_run_of_its_own_is_beyond_the_bounds_and_the_largest_is_the_statistic(floor: NoiseFloor) -> None:
    (session,) = floor.sessions
    distance, norm = floor_bounds(floor, session, 1e-3, FIXED).factors
    assert 1 < max(session.distance_maxima) < distance < 4 * max(session.distance_maxima)
    assert 1 < max(session.norm_maxima) < norm < 4 * max(session.norm_maxima)


def test_a_right_implementation_is_within_the_floor(floor: NoiseFloor, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    """On noise that the floor was not measured with."""
    bounds = floor_bounds(floor, floor.sessions[0], 1e-3, FIXED)
    reference, candidate = (load(name, tiny, fp32_on_cpu) for name in ("eager", "candidate"))
    fresh = make_scenario(tiny.geometry, name="fresh", units=1, seed=100)
    errors = against_itself(reference, candidate, tiny, fresh)
    assert {str(key): error.rel_l2 for key, error in errors.items() if error.rel_l2 > bounds.of(key).rel_l2} == {}
    assert {str(key): error.log_norm for key, error in errors.items() if error.log_norm > bounds.of(key).log_norm} == {}


def test_the_errors_of_an_implementation_against_itself_are_none(
    tiny: Checkpoint, sessions: list[Scenario], fp32_on_cpu: Numerics
) -> None:
    one, other = (load("eager", tiny, fp32_on_cpu) for _ in range(2))
    errors = against_itself(one, other, tiny, sessions[0])
    assert Key(0, "decode", 0, "frame") in errors
    assert all(error.identical for error in errors.values())


def test_too_few_runs_are_refused(tiny: Checkpoint, sessions: list[Scenario], fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="too few runs") as error:
        measure_floor("eager", tiny, fp32_on_cpu, [sessions, sessions[: FEWEST_RUNS - 1]])
    assert error.value.found == f"{FEWEST_RUNS - 1} of a kind"
