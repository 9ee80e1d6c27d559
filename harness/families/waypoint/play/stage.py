"""The stage: a pair of sessions as the command line asks for it, and what its page has to know."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.cli import given
from waypoint_parity.harness.cli import options as arguments
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.play.pair import Pair
from waypoint_parity.harness.families.waypoint.play.player import Role
from waypoint_parity.harness.families.waypoint.play.server import Play
from waypoint_parity.harness.run.scenario import read_scenario

Keys = dict[str, dict[str, Any]]
# Of reports/templates/play.js: pause, restart, keep.
PAGE_KEYS = ("p", "r", "k")


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
def staged(command: arguments.Play) -> Iterator[PlayStage]:
    """Load both implementations and begin their sessions. Raises UserError for whatever cannot be used."""
    numerics = given.numerics(command.numerics)
    checkpoint = open_checkpoint(command.checkpoint or given.CHECKPOINT)
    scenario = read_scenario(command.scenario or given.SCENARIO)
    n_buttons = checkpoint.geometry.transformer.n_buttons
    seen = PageFacts(command.reference, command.candidate, checkpoint.origin, _keys(command, n_buttons), scenario.seed)
    # One thread for each of the two: more of them only wait for each other.
    reference, candidate = (
        Role(name, checkpoint, numerics, command.numerics.threads or 1)
        for name in (command.reference, command.candidate)
    )
    with Pair(reference, candidate, scenario) as pair:
        yield PlayStage(Play(pair, n_buttons), seen)


def _keys(command: arguments.Play, n_buttons: int) -> Keys:
    """What the keys do, as the page is told it."""
    keys: Keys = {}
    for key, button in _pairs(command.buttons, "--buttons"):
        number = int(button) if button.isdecimal() else -1
        if not 0 <= number < n_buttons:
            raise _no_key(f"{key}={button}", f"key=button, a button from 0 to {n_buttons - 1}", "--buttons")
        keys[key] = {"button": number}
    for key, amount in _pairs(command.turns, "--turns"):
        try:
            keys[key] = {"mouse": [float(amount), 0.0]}
        except ValueError:
            raise _no_key(f"{key}={amount}", "key=amount, a number", "--turns") from None
    return keys


def _pairs(given: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for pair in given:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise _no_key(pair, "key=value, such as w=1", option)
        key = key.lower() if len(key) == 1 else key
        if key in PAGE_KEYS:
            raise _no_key(pair, f"a key that the page does not use itself ({', '.join(PAGE_KEYS)})", option)
        yield key, value


def _no_key(found: str, expected: str, option: str) -> UserError:
    return UserError("a key does nothing that is known", found=found, expected=expected, do=f"correct {option}")
