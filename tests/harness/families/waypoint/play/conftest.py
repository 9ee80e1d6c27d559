"""A pair of the tiny checkpoint's implementations, to be steered."""

from collections.abc import Iterator

import pytest

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.play.pair import Pair
from waypoint_parity.harness.families.waypoint.play.player import Role
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario


@pytest.fixture(scope="package")
def started(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Iterator[Pair]:
    """The reference and the candidate: their processes take longer to start than all that is asked of them."""
    reference, candidate = (Role(name, tiny, fp32_on_cpu) for name in ("eager", "candidate"))
    with Pair(reference, candidate, tiny_scenario) as pair:
        yield pair


@pytest.fixture
def pair(started: Pair, tiny_scenario: Scenario) -> Pair:
    """The two at the beginning of a session."""
    started.restart(tiny_scenario.seed)
    return started
