"""Places: a number for every (phase, step, site, branch, call) of a run, and the units that showed each."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.run.keys import Key

# Phase, step, site, branch, call.
Place = tuple[str, int, str, str, int]
Indices = npt.NDArray[np.int64]

# A key as one number, its code: unit * MOST_PLACES + place.
MOST_PLACES = 1 << 32

# Units of one block of marks.
_UNITS = 256


class Places(dict[Place, int]):
    """The number of every place, from 0, given when it is first asked for."""

    def __init__(self, places: Iterable[Place] = ()) -> None:
        super().__init__()
        self.names: list[Place] = []
        for place in places:
            self[place]

    def __missing__(self, place: Place) -> int:
        self[place] = number = len(self.names)
        self.names.append(place)
        return number

    def key(self, code: int) -> Key:
        """The key of a code."""
        return Key(code // MOST_PLACES, *self.names[code % MOST_PLACES])

    def codes(self, keys: Sequence[Key]) -> Indices:
        """The codes of keys [n]."""
        return np.array([key.unit * MOST_PLACES + self[key[1:]] for key in keys], np.int64)

    def __reduce__(self) -> tuple[type["Places"], tuple[list[Place]]]:
        return Places, (self.names,)


class Seen:
    """Which units showed which places: one byte for each."""

    def __init__(self) -> None:
        self._blocks: dict[int, npt.NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        """How many marks there are."""
        return sum(int(np.count_nonzero(marks)) for marks in self._blocks.values())

    def add(self, codes: Indices) -> int | None:
        """Mark `codes` [n]. Returns the index of the first that was marked before, else None."""
        again: list[int] = []
        units, places = np.divmod(codes, MOST_PLACES)
        for block, here in self._split(units):
            marks = self._marks(block, int(places[here].max()) + 1)
            flat = places[here] * _UNITS + units[here] % _UNITS
            known = marks.reshape(-1)[flat]
            # Places are numbered as they come, so that codes ascend; only where they do not can one come twice here.
            if not (np.diff(codes[here]) > 0).all():
                known[np.delete(np.arange(len(flat)), np.unique(flat, return_index=True)[1])] = True
            again += here[known][:1].tolist()
            marks.reshape(-1)[flat] = True
        return min(again, default=None)

    def units_of(self, place: int) -> list[int]:
        """The units that showed a place."""
        rows = ((block, marks[place]) for block, marks in sorted(self._blocks.items()) if place < len(marks))
        return [block * _UNITS + int(unit) for block, row in rows for unit in np.flatnonzero(row)]

    def units(self, places: Iterable[int]) -> list[int]:
        """The units that showed any of `places`."""
        return sorted({unit for place in places for unit in self.units_of(place)})

    def merge(self, other: "Seen", numbers: Indices) -> int | None:
        """Mark what `other` has, whose place i is `numbers[i]` here. Returns a code that both have."""
        both = None
        for block, theirs in other._blocks.items():
            places, units = np.nonzero(theirs)
            codes = (units + block * _UNITS) * MOST_PLACES + numbers[places]
            again = self.add(codes)
            both = both if again is None else int(codes[again])
        return both

    def _split(self, units: Indices) -> list[tuple[int, Indices]]:
        """(block, indices of the units in it); nearly always one."""
        blocks = units // _UNITS
        if len(blocks) and blocks.min() == blocks.max():
            return [(int(blocks[0]), np.arange(len(blocks)))]
        return [(int(block), np.flatnonzero(blocks == block)) for block in np.unique(blocks)]

    def _marks(self, block: int, places: int) -> npt.NDArray[np.bool_]:
        marks = self._blocks.get(block)
        if marks is None or len(marks) < places:
            # With room to grow, so that a model's places do not come one copy each.
            grown = np.zeros((max(2 * places, 64), _UNITS), np.bool_)
            if marks is not None:
                grown[: len(marks)] = marks
            self._blocks[block] = marks = grown
        return marks
