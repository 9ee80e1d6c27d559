"""The official Wan 2.1 against ports: parity, nine faults seen at their own places, FastVideo's double shift."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.reference.test_wan_official import IS_THERE
from waypoint_parity.candidate.wan_fastvideo import source
from waypoint_parity.candidate.wan_fastvideo.adapter import OWN_SCHEDULE, WanFastVideoAdapter
from waypoint_parity.fixtures.faults.wan import FAULTS, STAGE, SUITE
from waypoint_parity.fixtures.tiny_wan import write_wan
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.fault import Fault
from waypoint_parity.harness.families.wan.scenario import made, with_shift, with_steps
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps
from waypoint_parity.reference.wan import package

pytestmark = pytest.mark.skipif(not IS_THERE, reason=f"Wan2.1 is not importable; {package.TESTED.install}")
needs_fastvideo = pytest.mark.skipif(
    importlib.util.find_spec("fastvideo") is None or not source.TESTED.is_in(source.TESTED.package(source.PACKAGE)),
    reason=f"FastVideo is not importable at the revision whose Wan was tested; {source.TESTED.install}",
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SUITE, tmp_path_factory.mktemp("wan"))


def test_unchanged_they_agree(bench: Bench) -> None:
    comparison = bench.compare(bench.case(STAGE, []))
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen_first_where_it_is(bench: Bench, fault: Fault) -> None:
    comparison = bench.compare(bench.case(STAGE, [fault.change]))
    assert comparison.first is not None
    if comparison.verdict is Verdict.INCOMPARABLE:
        assert comparison.reason is not None
        assert fault.first.site in comparison.reason
        return
    assert (comparison.verdict, comparison.first.key) == (Verdict.DIVERGED, fault.first.key)


@needs_fastvideo
def test_fastvideo_agrees_at_every_site(tmp_path: Path) -> None:
    bench = Bench(replace(SUITE, implementation="wan-fastvideo"), tmp_path)
    comparison = bench.compare(bench.case(STAGE, []))
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected


@needs_fastvideo
def test_fastvideo_shifts_its_own_schedule_twice(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_wan(tmp_path / "wan", num_layers=1))
    geometry = checkpoint.geometry
    scenario = made(geometry, name="fifty steps", seed=11, units=1)
    scenario = with_shift(with_steps(scenario, geometry, "50"), geometry, "5")
    adapter = WanFastVideoAdapter(checkpoint, Numerics(torch.float32, torch.device("cpu"), options=(OWN_SCHEDULE,)))
    timesteps = []

    def keep(seen: Observation) -> None:
        if seen.key.site == "input.timestep" and seen.key.branch == "cond":
            timesteps.append(int(seen.tensor))

    with Taps(adapter.sites(), keep, replaces=False) as taps:
        run(adapter, scenario, checkpoint, taps)
    pairs = list(zip(timesteps, scenario["timesteps"].tolist(), strict=True))
    assert (len(pairs), sum(theirs != right for theirs, right in pairs)) == (50, 10)
    assert next(pair for pair in pairs if pair[0] != pair[1]) == (921, 920)
