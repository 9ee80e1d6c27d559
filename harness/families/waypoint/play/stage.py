"""The stage: a pair of sessions that a page can steer, and what the page has to know of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.play.pair import Pair
from waypoint_parity.harness.families.waypoint.play.player import Role
from waypoint_parity.harness.families.waypoint.play.server import Play, serving
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario

# What each key does: {"button": number} or {"mouse": [right, down]}.
Keys = dict[str, dict[str, Any]]
# Of the page itself (reports/templates/play.js): pause, restart, keep.
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
def staged(reference: Role, candidate: Role, scenario: Scenario, keys: Keys) -> Iterator[PlayStage]:
    """Load both implementations and begin their sessions. Raises UserError for whatever cannot be used."""
    checkpoint = reference.checkpoint
    seen = PageFacts(reference.name, candidate.name, checkpoint.origin, keys, scenario.seed)
    with Pair(reference, candidate, scenario) as pair:
        yield PlayStage(Play(pair, checkpoint.geometry.transformer.n_buttons), seen)


@contextmanager
def served(
    names: Sequence[str],
    checkpoint: Checkpoint,
    numerics: Sequence[Numerics],
    scenario: Scenario,
    page: Callable[[Any, str], str],
    *,
    buttons: Sequence[str],
    turns: Sequence[str],
    port: int,
    threads: int,
) -> Iterator[str]:
    """The address of a page from which reference and candidate are steered: see `waypoint-parity play --help`."""
    reference, candidate = (Role(name, checkpoint, each, threads) for name, each in zip(names, numerics, strict=True))
    keys = keys_of(buttons, turns, checkpoint.geometry.transformer.n_buttons)
    with (
        staged(reference, candidate, scenario, keys) as stage,
        serving(stage.play, partial(page, asdict(stage.seen)), port) as address,
    ):
        yield address


def keys_of(buttons: Sequence[str], turns: Sequence[str], n_buttons: int) -> Keys:
    """What the keys do, as the page is told it."""
    keys: Keys = {}
    for key, button in _pairs(buttons, "--buttons"):
        number = int(button) if button.isdecimal() else -1
        if not 0 <= number < n_buttons:
            raise _no_key(f"{key}={button}", f"key=button, a button from 0 to {n_buttons - 1}", "--buttons")
        keys[key] = {"button": number}
    for key, amount in _pairs(turns, "--turns"):
        try:
            keys[key] = {"mouse": [float(amount), 0.0]}
        except ValueError:
            raise _no_key(f"{key}={amount}", "key=amount, a number", "--turns") from None
    return keys


def _pairs(words: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for pair in words:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise _no_key(pair, "key=value, such as w=1", option)
        key = key.lower() if len(key) == 1 else key
        if key in PAGE_KEYS:
            raise _no_key(pair, f"a key that the page does not use itself ({', '.join(PAGE_KEYS)})", option)
        yield key, value


def _no_key(found: str, expected: str, option: str) -> UserError:
    return UserError("a key does nothing that is known", found=found, expected=expected, do=f"correct {option}")
