"""What an implementation carries from one session to the next: a session is run fresh, and after another one."""

from collections.abc import Callable
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

# A ring, a clock and a decoder's memory show what they kept in the second unit at the latest.
_UNITS = 2


Digests = list[tuple[Key, str]]


def carried_over(
    load: Callable[[], Adapter], scenario: Scenario, checkpoint: "Checkpoint", *, fresh: Adapter | None = None
) -> str | None:
    """What the first units of `scenario` show differently where another session came before, in words; None if nothing.

    `load` loads the implementation, which has then run nothing; `fresh` has run nothing but this scenario, and saves
    one loading. The other session has another prompt, other noise and other controls. An implementation that fails by
    itself has nothing to compare: whoever runs it next meets that too.
    """
    try:
        expected = digests_shown(load() if fresh is None else fresh, scenario, checkpoint)
    except EngineError:
        return None
    adapter = load()
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
    with Taps(adapter.sites(), see, counts=counting(first, checkpoint)) as taps:
        run(adapter, first, checkpoint, taps)
    return shown


def first_unlike(actual: Digests, expected: Digests) -> Key | None:
    """Where two sessions differ first; None where not a bit."""
    unlike = next((pair for pair in zip_longest(actual, expected) if pair[0] != pair[1]), None)
    return None if unlike is None else (unlike[0] or unlike[1])[0]


def _first(scenario: Scenario, checkpoint: "Checkpoint") -> Scenario:
    return checkpoint.family.first_units(scenario, min(_UNITS, scenario.units))
