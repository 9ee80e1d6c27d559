"""Growth: how far rounding alone takes a free-running session of the reference, observation by observation.

Its disturbed lanes run free: each goes on with its own values. Where a session is that far from the reference's, its
errors are those of rounding, however large they have become. Where it is further off though no site is wrong by itself,
something is at work that no site shows.
"""

from waypoint_parity.harness.compare.exact.shadowed import Shadowed
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.taps import Observation

# Rounding errors of a whole session grow in few directions, so that more lanes are needed than of one site.
LANES = 8
# The reference's own error is one such lane: up to so many parameters the others are run where it leaves a doubt.
MOST_PARAMETERS = 100_000_000


def growth(reference: Shadowed, scenario: Scenario) -> dict[Key, float]:
    """How far rounding alone takes each observation of a session: the root mean square of the lanes, relative."""
    found: dict[Key, float] = {}

    def see(seen: Observation) -> None:
        if seen.spread is not None and seen.lost is None:
            found[seen.key] = seen.spread

    reference.shadow.lanes = 1 + LANES
    reference.watched(scenario, see)
    return found
