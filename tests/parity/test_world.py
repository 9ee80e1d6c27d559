"""On the small trained world known faults look like what they are: in the frames, and in what the report says."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest

from waypoint_parity.fixtures.faults import SUITE
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import PictureMetrics, Pixels, picture_metrics
from waypoint_parity.harness.compare.sharpness import BlurDecision, blur_decision
from waypoint_parity.harness.explain.scorecard.fault import Change
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures
from waypoint_parity.harness.run.variant import Variant

SCENARIOS = Path(__file__).parents[2] / "fixtures" / "scenarios"
FAULTS = {fault.name: fault for fault in SUITE.faults}
SCHEDULE, HISTORY, SCALE = SEEDED = ("sigma-three-steps", "cache-none", "vae-scale")
# A schedule that is further off than the fault's, for the order of sharpness.
ONE_STEP = "single-step"
# Levels of 255: what anybody sees, and what nobody does.
VISIBLE, INVISIBLE = 1.0, 0.05


@dataclass(frozen=True)
class Seen:
    """A candidate's frames against the reference's, over all scenarios."""

    metrics: list[PictureMetrics]
    decisions: list[BlurDecision]

    @property
    def mean_abs(self) -> float:
        return fmean(each.mean_abs for each in self.metrics)

    @property
    def ssim(self) -> float:
        return fmean(each.ssim for each in self.metrics)

    @property
    def sharpness(self) -> float:
        return fmean(each.sharpness for each in self.decisions if each.sharpness is not None)

    @property
    def causes(self) -> list[str]:
        return [decision.cause for decision in self.decisions]


def frames(
    implementation: str, world: Checkpoint, numerics: Numerics, scenario: Scenario, *changes: Change
) -> list[Pixels]:
    adapter = registry.load(implementation, world, numerics)
    for change in changes:
        change(adapter)
    with decoded_pictures(adapter, world.family) as pictures:
        run(adapter, scenario, world)
    return pictures


@pytest.fixture(scope="module")
def seen(world: Checkpoint, fp32_on_cpu: Numerics) -> Iterator[dict[str, Seen]]:
    found = {name: Seen([], []) for name in ("right", *SEEDED, ONE_STEP)}
    for walk in ("right", "left"):
        scenario = read_scenario(SCENARIOS / f"{walk}.safetensors")
        expected = frames("eager", world, fp32_on_cpu, scenario)
        for name, one in found.items():
            changes = [FAULTS[name].change] if name in FAULTS else []
            given = Variant.of({"schedule": ONE_STEP}).apply(scenario, world.geometry) if name == ONE_STEP else scenario
            actual = frames("candidate", world, fp32_on_cpu, given, *changes)
            pairs = list(zip(actual, expected, strict=True))
            one.metrics.extend(picture_metrics(PictureAt(number), *pair) for number, pair in enumerate(pairs))
            one.decisions.extend(blur_decision(*pair) for pair in pairs)
    yield found
    print(f"\n{'':20} {'mean |d|':>8} {'SSIM':>6} {'sharpness':>9}  called")
    for name, one in found.items():
        called = ", ".join(f"{cause} {one.causes.count(cause)}" for cause in sorted(set(one.causes)))
        print(f"{name:20} {one.mean_abs:8.2f} {one.ssim:6.3f} {one.sharpness:9.2f}  {called}")


@pytest.mark.parametrize("name", SEEDED)
def test_a_fault_is_visible_and_parity_is_not(name: str, seen: dict[str, Seen]) -> None:
    # The first generated frame has the seed image for a history, from which a wrong schedule goes the least astray.
    assert min(metrics.mean_abs for metrics in seen[name].metrics if metrics.at.unit > 0) > VISIBLE
    assert max(metrics.mean_abs for metrics in seen["right"].metrics) < INVISIBLE


def test_the_frames_metrics_rank_them(seen: dict[str, Seen]) -> None:
    """A wrong schedule softens, a lost history makes another place of it, a wrong scale crushes the picture."""
    assert seen[SCHEDULE].mean_abs < seen[HISTORY].mean_abs < seen[SCALE].mean_abs
    assert seen[SCHEDULE].ssim > seen[HISTORY].ssim > seen[SCALE].ssim


def test_sharpness_ranks_the_schedules(seen: dict[str, Seen]) -> None:
    assert seen[ONE_STEP].sharpness < seen[SCHEDULE].sharpness < 0.9 < seen["right"].sharpness


def test_the_wrong_schedule_is_called_blur_and_the_wrong_scale_is_not(seen: dict[str, Seen]) -> None:
    causes = seen[SCHEDULE].causes
    assert causes.count("blur") > len(causes) / 2
    assert "blur" not in seen[SCALE].causes
