"""The official package on the small trained world: it loads the checkpoint, and parity holds."""

import importlib.util
from pathlib import Path

import pytest

from tests.official.test_world_engine import PARITY_BOUND, WORLD_ENGINE
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.reference.world_engine.package import WAYPOINT_1, WAYPOINT_15, installed_release

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("world_engine") is None or installed_release() is WAYPOINT_15,
    reason=f"world_engine is not importable: {WAYPOINT_1.install}",
)

SCENARIOS = Path(__file__).parents[2] / "fixtures" / "scenarios"


@pytest.fixture(scope="module")
def adapters(world: Checkpoint, fp32_on_cpu: Numerics) -> dict[str, Adapter]:
    return {name: registry.load(name, world, fp32_on_cpu) for name in (WORLD_ENGINE, "eager", "candidate")}


@pytest.mark.parametrize("candidate", ["eager", "candidate"])
@pytest.mark.parametrize("walk", ["right", "left"])
def test_parity_holds_on_rendered_walks(
    walk: str, candidate: str, adapters: dict[str, Adapter], world: Checkpoint
) -> None:
    scenario = read_scenario(SCENARIOS / f"{walk}.safetensors")
    sides = (Side(name, adapters[name]) for name in (WORLD_ENGINE, candidate))
    comparison = lockstep(*sides, world, scenario, Judgement(fixed_tolerance(world.family, "fp32")))
    print(f"{candidate}, {walk}: {comparison.compared} observations, worst {comparison.worst}")
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected
    assert comparison.worst is not None
    assert comparison.worst.distance <= PARITY_BOUND
    assert min(metrics.ssim for metrics in comparison.pictures) >= 0.9999
