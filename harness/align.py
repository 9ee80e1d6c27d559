"""Alignment: the rows of two dumps, matched by key in one sweep over both."""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.errors import UserError
from harness.keys import Key
from harness.lines import Part
from harness.places import MOST_PLACES, Indices, Places, Seen
from harness.rows import Row, read_rows
from harness.selection import Selection

# So many rows are matched at once, for numpy's sake.
_AT_ONCE = 1024
_place = attrgetter("phase", "step", "site", "call")
_frame = attrgetter("frame")


class Matches(NamedTuple):
    """Rows of one key on both sides [n]. `order` and `lines` are the indices of their lines, from 0."""

    order: Indices
    lines: Indices
    codes: Indices
    candidates: list[Row]
    references: list[Row]


class Waiting(NamedTuple):
    """A row without a partner yet, and the index of its line."""

    line: int
    row: Row


class Side:
    """One dump's part as it is read: rows that are not yet matched by their place in the file, then those that wait."""

    def __init__(self, part: Part, places: Places, taken: Selection | None = None) -> None:
        """`taken`: what of this dump the other one recorded too; None for everything."""
        self.seen = Seen()
        self.lines = 0
        self.finished = False
        self.waiting: dict[int, Waiting] = {}
        self.rows: list[Row] = []
        self.codes: Indices = np.empty(0, np.int64)
        self.at: Indices = np.empty(0, np.int64)
        self._part = part
        self._places = places
        self._taken = taken
        self._blocks = read_rows(part)
        self._bytes = 0

    @property
    def progress(self) -> float:
        """How much of the part has been read, between 0 and 1."""
        return self._bytes / max(1, (self._part.stop or 0) - self._part.start)

    def read(self) -> None:
        """Read some more blocks. Raises UserError for a broken line, and for a key that came before."""
        rows: list[Row] = []
        first = self.lines
        while len(rows) < _AT_ONCE and not self.finished:
            _, length, more = next(self._blocks, (0, 0, []))
            rows += more
            self._bytes += length
            self.finished = not more
        self.lines += len(rows)
        places = map(self._places.__getitem__, map(_place, rows))
        frames = np.fromiter(map(_frame, rows), np.int64, len(rows))
        codes = frames * MOST_PLACES + np.fromiter(places, np.int64, len(rows))
        if (again := self.seen.add(codes)) is not None:
            raise comes_twice(self._part.path, rows[again].key)
        at = np.arange(first, self.lines)
        if self._taken is not None:
            kept = np.array([self._taken.takes(row.key) for row in rows], bool)
            rows, codes, at = [row for row, keep in zip(rows, kept, strict=True) if keep], codes[kept], at[kept]
        self.rows += rows
        self.codes, self.at = np.concatenate([self.codes, codes]), np.concatenate([self.at, at])

    def drop(self, count: int) -> None:
        """Forget the first `count` rows."""
        self.rows, self.codes, self.at = self.rows[count:], self.codes[count:], self.at[count:]

    def wait(self, index: int) -> None:
        """Let row `index` wait for its partner."""
        self.waiting[int(self.codes[index])] = Waiting(int(self.at[index]), self.rows[index])


def align(reference: Side, candidate: Side) -> Iterator[Matches]:
    """Match the rows of two sides by key. What waits for its partner at the end is left in `waiting` of each side."""
    while not (reference.finished and candidate.finished):
        # The one that is behind, so that dumps of unequal length do not drift apart.
        min(reference, candidate, key=lambda side: (side.finished, side.progress)).read()
        count = min(len(reference.rows), len(candidate.rows))
        if np.array_equal(reference.codes[:count], candidate.codes[:count]):
            if count:
                yield _heads(reference, candidate, count)
        else:
            yield from _walk(reference, candidate)
        for side, other in ((reference, candidate), (candidate, reference)):
            if other.finished and side.rows:
                yield from _against_waiting(side, other, side is reference)


def _heads(reference: Side, candidate: Side, count: int) -> Matches:
    """The first `count` rows of both sides, which have the same keys in the same order."""
    codes, rows = reference.codes[:count], (candidate.rows[:count], reference.rows[:count])
    matches = Matches(reference.at[:count], candidate.at[:count], codes, *rows)
    reference.drop(count)
    candidate.drop(count)
    return matches


def _walk(reference: Side, candidate: Side) -> Iterator[Matches]:
    """Match until one side has no row left, by keys that come elsewhere. Finds back to the same place on both sides."""
    expected, actual = reference.codes.tolist(), candidate.codes.tolist()
    pairs: list[tuple[int, Waiting, Waiting]] = []
    i = j = 0
    while i < len(expected) and j < len(actual):
        if expected[i] == actual[j]:
            pairs.append((expected[i], _row(candidate, j), _row(reference, i)))
            i, j = i + 1, j + 1
        elif expected[i] in candidate.waiting:
            pairs.append((expected[i], candidate.waiting.pop(expected[i]), _row(reference, i)))
            i += 1
        elif actual[j] in reference.waiting:
            pairs.append((actual[j], _row(candidate, j), reference.waiting.pop(actual[j])))
            j += 1
        else:
            reference.wait(i)
            candidate.wait(j)
            i, j = i + 1, j + 1
    reference.drop(i)
    candidate.drop(j)
    yield from matched(pairs)


def _against_waiting(side: Side, other: Side, is_reference: bool) -> Iterator[Matches]:
    """Match what is left of `side` with what waits of the `other`, which has no more to come."""
    pairs = []
    for index, code in enumerate(side.codes.tolist()):
        if code in other.waiting:
            rows = other.waiting.pop(code), _row(side, index)
            pairs.append((code, *(rows if is_reference else rows[::-1])))
        else:
            side.wait(index)
    side.drop(len(side.rows))
    yield from matched(pairs)


def _row(side: Side, index: int) -> Waiting:
    return Waiting(int(side.at[index]), side.rows[index])


def matched(pairs: list[tuple[int, Waiting, Waiting]]) -> Iterator[Matches]:
    """The matches of (code, candidate, reference), if there are any."""
    if pairs:
        codes, candidates, references = zip(*pairs, strict=True)
        (lines, actual), (order, expected) = zip(*candidates, strict=True), zip(*references, strict=True)
        yield Matches(np.array(order), np.array(lines), np.array(codes), list(actual), list(expected))


def comes_twice(path: Path, key: Key) -> UserError:
    """The error of a key that two records of a file have. Reads the file up to the second one."""
    numbers = (
        first + index + 1
        for first, _, rows in read_rows(Part(path))
        for index, row in enumerate(rows)
        if row.key == key
    )
    first, second = next(numbers), next(numbers)
    return UserError(
        f"{path}, line {second}: {key} comes twice",
        found=f"a second record of the same frame, phase, step, site and call; the first is on line {first}",
        expected="one record of each; `call` counts repeats within a pass",
        do="correct what wrote the dump",
    )
