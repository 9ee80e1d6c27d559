"""The tally: what has become of the observations of a run so far, or of a part of it that is added to the rest."""

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.occurrences import MOST_PLACES, Indices, Places, Seen
from waypoint_parity.harness.judge.comparison import SiteResult, Verdict, WorstAtSite
from waypoint_parity.harness.judge.growth import Growth
from waypoint_parity.harness.judge.judgement import Bounds
from waypoint_parity.harness.run.keys import Key, Rung, is_input

MOST_FAILURES = 200

Column = npt.NDArray[np.float64]


class Tally:
    """Counts, first failures, the worst error, the growth of the error, and the layer ladder.

    Its memory grows with the sites of a model, and by one byte for each observation that was `entered`: judged,
    accepted or allowed to be missing.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.growth = Growth(bounds)
        self.places = Places()
        self.entered = Seen()
        # The place in the execution after that of everything entered.
        self.end = 0
        self.counts: Counter[str] = Counter()
        self.failures: list[SiteResult] = []
        self.worst: SiteResult | None = None
        self.differing_input: SiteResult | None = None
        self._bounds = bounds
        # The ladder, by place: the worst error, below any for a place without one, and the unit that showed it; then
        # how many observations were compared, lacked, and failed.
        self._errors: Column = np.empty(0)
        self._units: Indices = np.empty(0, np.int64)
        self._compared: Indices = np.empty(0, np.int64)
        self._missing: Indices = np.empty(0, np.int64)
        self._failed: Indices = np.empty(0, np.int64)

    def enter(self, order: Indices, codes: Indices) -> Indices:
        """Take note of the observations `codes` [n]. Returns their places [n]."""
        self.entered.add(codes)
        self.end = max(self.end, int(order.max()) + 1)
        return codes % MOST_PLACES

    def add(self, name: str, number: int) -> None:
        """Count so many observations under a name."""
        if number:
            self.counts[name] += number

    def fail(self, order: int, result: Callable[[], SiteResult]) -> None:
        """Keep a failure, if it is among the first in execution order."""
        if len(self.failures) < MOST_FAILURES or order < self.failures[-1].order:
            insort(self.failures, result(), key=lambda failure: failure.order)
            del self.failures[MOST_FAILURES:]

    def differ(self, order: int, result: Callable[[], SiteResult]) -> None:
        """Keep an input that differs, if it is the first in execution order."""
        if self.differing_input is None or order < self.differing_input.order:
            self.differing_input = result()

    def exceed(self, distance: float, result: Callable[[], SiteResult]) -> None:
        """Keep the error of an activation, if it is the worst."""
        if self.worst is None or distance > self.worst.distance:
            self.worst = result()

    def climb(
        self, codes: Indices, errors: Column, compared: npt.NDArray[np.bool_], failed: npt.NDArray[np.bool_]
    ) -> None:
        """Fold those of `codes` [n] that were compared into their rungs of the ladder."""
        self._grow()
        units, places = np.divmod(codes[compared], MOST_PLACES)
        self._raise(places, errors[compared], units)
        np.add.at(self._compared, places, 1)
        np.add.at(self._failed, codes[failed] % MOST_PLACES, 1)

    def miss(self, key: Key, number: int) -> None:
        """Fold so many missing observations, the first of them `key`, into their rung."""
        place = np.array([self.places[key[1:]]])
        self._grow()
        self._raise(place, np.array([math.inf]), np.array([key.unit]))
        self._missing[place] += number
        self._failed[place] += number

    def merge(self, other: "Tally", lines: tuple[int, int]) -> Indices:
        """Add the tally of a later part, before which (candidate, reference) have so many `lines`.

        Returns the numbers that the places of `other` have here.
        """
        numbers = np.array([self.places[place] for place in other.places.names], np.int64)
        self._grow()
        other._grow()
        self._raise(numbers, other._errors, other._units)
        self._compared[numbers] += other._compared
        self._missing[numbers] += other._missing
        self._failed[numbers] += other._failed
        self.entered.merge(other.entered, numbers)
        self.end = max(self.end, other.end + lines[1])
        self.counts += other.counts
        self.growth.merge(other.growth, lines[1])
        for failure in other.failures:
            self.fail(failure.order + lines[1], partial(_moved, failure, lines))
        if (worst := other.worst) is not None:
            self.exceed(worst.distance, lambda: _moved(worst, lines))
        if (differing := other.differing_input) is not None:
            self.differ(differing.order + lines[1], lambda: _moved(differing, lines))
        return numbers

    def units_of(self, rung: Rung) -> list[int]:
        """The units in which an observation of the rung was entered."""
        place = self.places.get((*rung, 0))
        return [] if place is None else self.entered.units_of(place)

    def compared_sites(self) -> set[str]:
        """The sites that both sides showed in some pass."""
        return {self.places.names[place][2] for place in np.flatnonzero(self._compared)}

    def compared(self, expected: Collection[Rung] | None) -> int:
        """How many observations were compared; with `expected` only those, each once in a unit."""
        self._grow()
        if expected is None:
            return int(self._compared.sum())
        places = (self.places.get((*rung, 0)) for rung in expected)
        return sum(int(self._compared[place]) for place in places if place is not None)

    def verdict(self) -> Verdict:
        """The worst verdict of any observation; to have observed nothing, or nothing but inputs, is no pass."""
        computed = any(not is_input(self.places.names[place][2]) for place in self._shown())
        found = [verdict for verdict in Verdict if self.counts[verdict]]
        return found[-1] if computed and found else Verdict.MISSING

    def ladder(self) -> list[WorstAtSite]:
        """The rungs of the ladder; the calls of one site are one rung."""
        rungs: dict[Rung, list[int]] = {}
        for place in self._shown():
            phase, step, site, branch, _ = self.places.names[place]
            rungs.setdefault(Rung(phase, step, site, branch), []).append(place)
        return [self._rung(rung, places) for rung, places in rungs.items()]

    def _rung(self, rung: Rung, places: list[int]) -> WorstAtSite:
        worst = max(places, key=lambda place: self._errors[place])
        unit = int(self._units[worst])
        return WorstAtSite(
            **rung._asdict(),
            rel_l2=finite(float(self._errors[worst])),
            tolerance=self._bounds.of(Key(unit, *rung)).rel_l2,
            unit=unit,
            failed=int(self._failed[places].sum()),
            observations=int((self._compared[places] + self._missing[places]).sum()),
        )

    def _shown(self) -> list[int]:
        """The places that are on the ladder, in execution order."""
        self._grow()
        shown: list[int] = np.flatnonzero(self._compared + self._missing).tolist()
        return shown

    def _raise(self, places: Indices, errors: Column, units: Indices) -> None:
        """Keep the worst error of each place, and the first unit that showed it."""
        known = self._errors[places]
        worse = (errors > known) | ((errors == known) & (units < self._units[places]))
        for index in np.flatnonzero(worse):
            place, error, unit = places[index], errors[index], units[index]
            if (error, -unit) > (self._errors[place], -self._units[place]):
                self._errors[place], self._units[place] = error, unit

    def _grow(self) -> None:
        """Make room for places that are new."""
        if more := len(self.places) - len(self._errors):
            self._errors = np.concatenate([self._errors, np.full(more, -1.0)])
            zeros = np.zeros(more, np.int64)
            self._units, self._compared = np.append(self._units, zeros), np.append(self._compared, zeros)
            self._missing, self._failed = np.append(self._missing, zeros), np.append(self._failed, zeros)


def _moved(result: SiteResult, lines: tuple[int, int]) -> SiteResult:
    """`result` as counted from the beginning of the files, where its part comes after so many lines."""
    candidate, reference = lines
    moved = None if result.lines is None else (result.lines[0] + candidate, result.lines[1] + reference)
    return msgspec.structs.replace(result, order=result.order + reference, lines=moved)


def finite(value: float) -> float | None:
    """`value`, or None where it is none that JSON knows."""
    return value if math.isfinite(value) else None
