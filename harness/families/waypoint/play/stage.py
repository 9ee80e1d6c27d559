"""The stage: a pair of sessions that a page can steer, and what the page has to know of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.families.waypoint.play.pair import Pair
from waypoint_parity.harness.families.waypoint.play.player import Role
from waypoint_parity.harness.families.waypoint.play.server import Play
from waypoint_parity.harness.run.scenario import Scenario

# What each key does: {"button": number} or {"mouse": [right, down]}.
Keys = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class PageFacts:
    """What the page shows besides the frames: names, and what the keys do."""

    reference: str
    candidate: str
    checkpoint: str
    keys: Keys
    seed: int


@dataclass(frozen=True)
class PlayStage:
    """What can be asked for, and what is seen of it."""

    play: Play
    seen: PageFacts


@contextmanager
def staged(reference: Role, candidate: Role, scenario: Scenario, keys: Keys) -> Iterator[PlayStage]:
    """Load both implementations and begin their sessions. Raises UserError for whatever cannot be used."""
    checkpoint = reference.checkpoint
    seen = PageFacts(reference.name, candidate.name, checkpoint.origin, keys, scenario.seed)
    with Pair(reference, candidate, scenario) as pair:
        yield PlayStage(Play(pair, checkpoint.geometry.transformer.n_buttons), seen)
