"""Alignment: the rows of two dumps, matched by key in one scan of both."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from waypoint_parity.harness.compare.occurrences import Places, Seen
from waypoint_parity.harness.compare.rows import Forms, Rows, Waiting, no_rows, read_rows, rows_again
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.blocks import FilePart
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key


class Matches(NamedTuple):
    """Rows of the same keys on both sides [n]."""

    candidates: Rows
    references: Rows


class SideRecords:
    """One dump's part as it is read: rows that are not yet matched by their place in the file, then those that wait."""

    def __init__(self, part: FilePart, forms: Forms, taken: Selection | None = None) -> None:
        """`taken`: what of this dump the other one recorded too; None for everything."""
        self.seen = Seen()
        self.lines = 0
        self.finished = False
        self.waiting: dict[int, Waiting] = {}
        self.rows = no_rows(forms)
        self._part = part
        self._forms = forms
        self._taken = taken
        self._unread = read_rows(part, forms)
        self._bytes = 0

    @property
    def progress(self) -> float:
        """How much of the part has been read, between 0 and 1."""
        return self._bytes / max(1, (self._part.stop or 0) - self._part.start)

    def read(self) -> None:
        """Read some more blocks. Raises UserError for a broken line, and for a key that came before."""
        length, rows = next(self._unread, (0, None))
        if rows is None:
            self.finished = True
            return
        self._bytes += length
        self.lines += len(rows)
        rows = self._checked(rows)
        self.rows = Rows.joined([self.rows, rows]) if len(self.rows) else rows

    def _checked(self, rows: Rows) -> Rows:
        """Those of new rows that are taken. Raises UserError for a key that came before."""
        places = self._forms.places
        if (again := self.seen.add(rows.codes)) is not None:
            raise comes_twice(self._part.path, places.key(int(rows.codes[again])))
        if self._taken is None:
            return rows
        return rows.take(np.array([self._taken.takes(places.key(code)) for code in rows.codes.tolist()], bool))

    def drop(self, count: int) -> None:
        """Forget the first `count` rows."""
        self.rows = self.rows.take(slice(count, None))

    def wait(self, index: int) -> None:
        """Let row `index` wait for its partner."""
        self.waiting[int(self.rows.codes[index])] = self.rows.waiting(index)

    def waited(self, codes: list[int]) -> Rows:
        """The rows of these codes, which wait no longer."""
        return rows_again(self._part, [self.waiting.pop(code) for code in codes], self._forms)


def align(reference: SideRecords, candidate: SideRecords) -> Iterator[Matches]:
    """Match the rows of two sides by key. What waits for its partner at the end is left in `waiting` of each side."""
    while not (reference.finished and candidate.finished):
        # The one that is behind, so that dumps of unequal length do not drift apart.
        min(reference, candidate, key=lambda side: (side.finished, side.progress)).read()
        count = min(len(reference.rows), len(candidate.rows))
        if np.array_equal(reference.rows.codes[:count], candidate.rows.codes[:count]):
            if count:
                yield _heads(reference, candidate, count)
        else:
            yield from _walk(reference, candidate)
        for side, other in ((reference, candidate), (candidate, reference)):
            if other.finished and len(side.rows):
                yield from _against_waiting(side, other, side is reference)


def _heads(reference: SideRecords, candidate: SideRecords, count: int) -> Matches:
    """The first `count` rows of both sides, which have the same keys in the same order."""
    matches = Matches(candidate.rows.take(slice(count)), reference.rows.take(slice(count)))
    reference.drop(count)
    candidate.drop(count)
    return matches


def _walk(reference: SideRecords, candidate: SideRecords) -> Iterator[Matches]:
    """Match until one side has no row left, by keys that come elsewhere. Finds back to the same place on both sides."""
    expected, actual = reference.rows.codes.tolist(), candidate.rows.codes.tolist()
    # Indices of rows whose partner is: at hand; among those of the candidate that wait; of the reference.
    pairs: list[tuple[int, int]] = []
    late: list[int] = []
    early: list[int] = []
    i = j = 0
    while i < len(expected) and j < len(actual):
        if expected[i] == actual[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif expected[i] in candidate.waiting:
            late.append(i)
            i += 1
        elif actual[j] in reference.waiting:
            early.append(j)
            j += 1
        else:
            reference.wait(i)
            candidate.wait(j)
            i, j = i + 1, j + 1
    if pairs:
        left, right = np.array(pairs).T
        yield Matches(candidate.rows.take(right), reference.rows.take(left))
    yield from _waited(reference, candidate, late, False)
    yield from _waited(candidate, reference, early, True)
    reference.drop(i)
    candidate.drop(j)


def _against_waiting(side: SideRecords, other: SideRecords, is_reference: bool) -> Iterator[Matches]:
    """Match what is left of `side` with what waits of the `other`, which has no more to come."""
    found = []
    for index, code in enumerate(side.rows.codes.tolist()):
        if code in other.waiting:
            found.append(index)
        else:
            side.wait(index)
    yield from _waited(side, other, found, not is_reference)
    side.drop(len(side.rows))


def _waited(side: SideRecords, other: SideRecords, found: list[int], is_candidate: bool) -> Iterator[Matches]:
    """The matches of rows `found` of `side` with those of the `other` that wait for them, if there are any."""
    if found:
        rows = side.rows.take(np.array(found))
        partners = other.waited(rows.codes.tolist())
        yield Matches(rows, partners) if is_candidate else Matches(partners, rows)


def comes_twice(path: Path, key: Key) -> UserError:
    """The error of a key that two records of a file have. Reads the file up to the second one."""
    places = Places()
    code = places.codes([key])[0]
    found = (
        at + 1 for _, rows in read_rows(FilePart(path), Forms(places)) for at in rows.at[rows.codes == code].tolist()
    )
    first, second = next(found), next(found)
    return UserError(
        f"{path}, line {second}: {key} comes twice",
        found=f"a second record of the same unit, phase, step, site, branch and call; the first is on line {first}",
        expected="one record of each; `call` counts repeats within a pass",
        do="correct what wrote the dump",
    )
