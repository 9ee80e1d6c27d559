"""What outlives a session, in whatever of its first units it shows."""

from collections.abc import Iterator

import pytest
from torch import Tensor

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.carried import carried_over, digests_shown
from waypoint_parity.harness.run.scenario import Scenario


class Remembering(CandidateAdapter):
    """Takes other noise in one unit of every session but the first."""

    unit = 0

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self._sessions = 0

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        self._sessions, self._units = self._sessions + 1, 0
        return super().session(scenario)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        changed = self._sessions > 1 and self._units == self.unit
        self._units += 1
        yield from super().generate(noise * 1.001 if changed else noise, controls)


@pytest.mark.parametrize("unit", [0, 1, 2])
def test_what_outlives_a_session_is_found_by_the_third_unit(tiny: Checkpoint, fp32_on_cpu: Numerics, unit: int) -> None:
    scenario = tiny.family.make(tiny.geometry, name="walk", seed=1, units=3)
    right = digests_shown(CandidateAdapter(tiny, fp32_on_cpu), scenario, tiny)
    assert carried_over(CandidateAdapter(tiny, fp32_on_cpu), right, scenario, tiny) is None
    wrong = Remembering(tiny, fp32_on_cpu)
    wrong.unit = unit
    found = carried_over(wrong, right, scenario, tiny)
    assert found is not None
    assert f"u{unit}/" in found
