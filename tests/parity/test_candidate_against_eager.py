"""The candidate against the eager reference over every schedule and prompt mask, in fp32, by full tensors.

On the golden packs' base checkpoint; `nox -s parity` does the same on the small trained world.
"""

from pathlib import Path

import pytest
import torch

from waypoint_parity.harness.cli.options import SweepOptions
from waypoint_parity.harness.cli.parity import ParityCommand
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.sweep.cells import Cell

FIXTURES = Path(__file__).parents[2] / "fixtures"
SWEPT = SweepOptions(
    checkpoint=str(FIXTURES / "golden" / "base"),
    scenario=FIXTURES / "scenarios" / "walk.safetensors",
    image_scenario=FIXTURES / "golden" / "image" / "scenario.safetensors",
)
# One seed will do.
RUN, PLANNED = ParityCommand(seed=(11,), swept=SWEPT).prepare()
CHECKPOINT = RUN.checkpoint
CELLS = {cell.name: cell for cell in PLANNED}


@pytest.fixture(scope="module")
def adapters() -> dict[str, Adapter]:
    numerics = Numerics(torch.float32, torch.device("cpu"))
    return {name: registry.find(name)(CHECKPOINT, numerics) for name in ("eager", "candidate")}


# `nox -s parity` runs such cells of every schedule and mask.
FEW = [name if number % 4 == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(CELLS)]


@pytest.fixture(scope="module", params=FEW)
def comparison(request: pytest.FixtureRequest, adapters: dict[str, Adapter]) -> Comparison:
    reference, candidate = (Side(name, adapter) for name, adapter in adapters.items())
    cell: Cell = CELLS[request.param]
    return lockstep(
        reference, candidate, CHECKPOINT, cell.scenario, Judgement(fixed_tolerance(CHECKPOINT.family, "fp32"))
    )


def test_the_sweep_is_schedules_by_masks_and_one_seed_image() -> None:
    assert len(CELLS) == 3 * 3 + 1
    assert {cell.scenario.units for cell in CELLS.values() if cell.scenario.get("image") is None} == {8}
    assert sum(cell.scenario.get("image") is not None for cell in CELLS.values()) == 1


def test_the_worst_site_is_within_5e_6(comparison: Comparison) -> None:
    assert comparison.worst is not None
    assert comparison.worst.distance <= 5e-6


def test_every_expected_observation_was_compared_and_passes(comparison: Comparison) -> None:
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected


def test_every_frame_looks_the_same(comparison: Comparison) -> None:
    assert len(comparison.pictures) in {3, 8}
    assert min(metrics.ssim for metrics in comparison.pictures) >= 0.9999
    assert max(metrics.mean_abs for metrics in comparison.pictures) <= 0.02
