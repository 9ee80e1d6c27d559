"""What an implementation carries from one session to the next: a session is run fresh, and after another one."""

from itertools import zip_longest
from typing import TYPE_CHECKING

from waypoint_parity.harness.errors import EngineError
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.engine import name_of
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import counting, run
from waypoint_parity.harness.run.taps import Observation, Taps

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

# What another session left in a ring, a clock or a decoder's memory shows in the second unit at the latest; in the
# third what is kept for the unit after the next. Each unit costs a tenth of a second to half of one in small worlds.
_UNITS = 3

Digests = list[tuple[Key, str]]


def carried_over(adapter: Adapter, expected: Digests, scenario: Scenario, checkpoint: "Checkpoint") -> str | None:
    """What the first units of `scenario` show differently where another session came before, in words; None if nothing.

    `adapter` has run nothing yet; `expected` is what another one like it showed by itself. The other session has
    another prompt, other noise and other controls.
    """
    try:
        run(adapter, checkpoint.family.other(_first(scenario, checkpoint), checkpoint.geometry), checkpoint)
        actual = digests_shown(adapter, scenario, checkpoint)
    except EngineError as error:
        return f"{name_of(adapter)} fails where another session came before: {error.what}, {error.found}"
    if (key := first_unlike(actual, expected)) is None:
        return None
    return (
        f"{name_of(adapter)} shows other values where another session came before, first at {key}: something outlives"
        " a session, such as a clock, a cache or a prompt; or it is not deterministic"
    )


def digests_shown(adapter: Adapter, scenario: Scenario, checkpoint: "Checkpoint") -> Digests:
    """The digest of everything that the first units of a session show, in order."""
    shown: Digests = []

    def see(seen: Observation) -> None:
        shown.append((seen.key, fast_digest(seen.tensor.detach().cpu())))

    first = _first(scenario, checkpoint)
    with Taps(adapter.sites(), see, counts=counting(first, checkpoint), replaces=False) as taps:
        run(adapter, first, checkpoint, taps)
    return shown


def first_unlike(actual: Digests, expected: Digests) -> Key | None:
    """Where two sessions differ first; None where not a bit."""
    unlike = next((pair for pair in zip_longest(actual, expected) if pair[0] != pair[1]), None)
    return None if unlike is None else (unlike[0] or unlike[1])[0]


def _first(scenario: Scenario, checkpoint: "Checkpoint") -> Scenario:
    return checkpoint.family.first_units(scenario, min(_UNITS, scenario.units))
