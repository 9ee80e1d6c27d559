"""Where observations come in the execution of a session, whatever the order of the lines that record them."""

from collections.abc import Sequence

import numpy as np

from waypoint_parity.harness.compare.columns import MOST_PLACES, Indices, Place, Places
from waypoint_parity.harness.record.records import PassSites
from waypoint_parity.harness.run.keys import Key, site_name

# So many calls of a site in a step are told apart.
_CALLS = 1 << 10


class Execution:
    """The order of a session: unit by unit, and in a unit as a manifest tells its passes and their sites."""

    def __init__(self, passes: Sequence[PassSites]) -> None:
        self._positions: dict[tuple[str, int, str], int] = {}
        for kind in passes:
            for site in kind.sites:
                self._positions.setdefault((kind.phase, kind.step, site), len(self._positions))
        # Of the places that were asked for so far, by their numbers.
        self._known = np.zeros(0, np.int64)

    def place(self, place: Place) -> int:
        """Where a place comes in its unit; last, where a right implementation does not show it."""
        phase, step, site, branch, call = place
        position = self._positions.get((phase, step, site_name(site, branch)), len(self._positions))
        return position * _CALLS + min(call, _CALLS - 1)

    def of(self, key: Key) -> int:
        """Where an observation comes in the session."""
        return key.unit * self._unit + self.place(key[1:])

    def orders(self, codes: Indices, places: Places) -> Indices:
        """Where observations [n] come in the session."""
        if new := places.names[len(self._known) :]:
            self._known = np.concatenate([self._known, np.array([self.place(place) for place in new], np.int64)])
        units, numbers = np.divmod(codes, MOST_PLACES)
        return units * self._unit + self._known[numbers]

    @property
    def _unit(self) -> int:
        return (len(self._positions) + 1) * _CALLS
