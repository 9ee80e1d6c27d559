"""A pair of the tiny checkpoint's implementations, to be steered."""

from collections.abc import Iterator

import pytest

from harness import registry
from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.play.pair import Pair, Player
from harness.scenario import Scenario


@pytest.fixture
def pair(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Iterator[Pair]:
    """The reference and the candidate, at the beginning of a session."""
    players = [Player(name, registry.load(name, tiny, fp32_on_cpu), tiny) for name in ("eager", "candidate")]
    with Pair(players[0], players[1], tiny, tiny_scenario) as pair:
        yield pair
