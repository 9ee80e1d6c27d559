"""The join: what two sides show, brought together by key. Whatever comes first waits for its partner."""

import gc
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Final, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from waypoint_parity.harness.compare.columns import MOST_PLACES, ColumnReader, Columns, Indices, Places, Seen
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import available_cores, end_with_the_parent, worker_pool
from waypoint_parity.harness.record.blocks import FilePart, LineBlock, split
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key

SideName = Literal["reference", "candidate"]
REFERENCE: Final = "reference"
CANDIDATE: Final = "candidate"
SIDES: tuple[SideName, SideName] = (REFERENCE, CANDIDATE)
OTHER: Mapping[SideName, SideName] = {REFERENCE: CANDIDATE, CANDIDATE: REFERENCE}

# Below this a process takes longer to start than to read its part.
_RECORDS_PER_PROCESS = 100_000
# The code of no record.
_NONE = -1

Name = TypeVar("Name", bound=Hashable)
Shown = TypeVar("Shown")
Part = TypeVar("Part")
Result = TypeVar("Result")
# Records of the same keys on both sides: the candidate's, then the reference's.
Pairs = tuple[Columns, Columns]


class Join(Generic[Name, Shown]):
    """What each side has shown, by key, as long as it waits for its partner."""

    def __init__(self) -> None:
        self.waiting: dict[SideName, dict[Name, Shown]] = {side: {} for side in SIDES}

    def partner(self, side: SideName, name: Name) -> Shown | None:
        """What the other side showed before at the same key, which waits no longer; None where it showed nothing."""
        return self.waiting[OTHER[side]].pop(name, None)


class PairTaker(Protocol):
    """Takes the pairs of two dumps. One for each part may do so in a process of its own, and is then merged."""

    places: Places

    def take(self, actual: Columns, expected: Columns) -> None:
        """Take the records of the same keys on both sides [n]."""
        ...

    def merge(self, part: Self, lines: Mapping[SideName, int]) -> Indices:
        """Add what another took of a later part, before which there are so many lines.

        Returns the numbers that the places of the other have here.
        """
        ...


Taker = TypeVar("Taker", bound=PairTaker)


class DumpJoin(Join[int, LineBlock]):
    """Joins the records of two dumps by their codes, or those of a part of each.

    `lines` counts them and `seen` has the units that showed each place, by side. Lines count from the beginning of the
    part, also those of what is `waiting`.
    """

    def __init__(self, places: Places, records: Mapping[SideName, Path]) -> None:
        super().__init__()
        self.lines = dict.fromkeys(SIDES, 0)
        self.seen = {side: Seen() for side in SIDES}
        self._places = places
        self._records = records

    def pairs(self, parts: Mapping[SideName, FilePart], taken: Mapping[SideName, Selection | None]) -> Iterator[Pairs]:
        """The pairs in a part of each file; `taken` as in `join_dumps`.

        Reads by blocks, the side that is behind first. Where both have the same keys in the same order, nothing waits.
        Raises UserError for a line that is no record, and for a key that came before.
        """
        reader = ColumnReader(self._places)
        ahead = {side: _Ahead(parts[side], reader) for side in SIDES}
        while not all(each.ended for each in ahead.values()):
            self._read(min(SIDES, key=lambda side: (ahead[side].ended, ahead[side].progress)), ahead, taken)
            expected, actual = (ahead[side].rows for side in SIDES)
            count = min(len(expected), len(actual))
            if count and np.array_equal(expected.codes[:count], actual.codes[:count]):
                yield actual.take(slice(count)), expected.take(slice(count))
                for each in ahead.values():
                    each.drop(count)
            yield from self._matched(reader, ahead)

    def _read(
        self, side: SideName, ahead: Mapping[SideName, "_Ahead"], taken: Mapping[SideName, Selection | None]
    ) -> None:
        """Read some more of one side."""
        rows = ahead[side].read()
        self.lines[side] += len(rows)
        if (again := self.seen[side].add(rows.codes)) is not None:
            raise _comes_twice(self._records[side], self._places.key(int(rows.codes[again])))
        if (selection := taken[side]) is not None:
            takes = [selection.takes(self._places.key(code)) for code in rows.codes.tolist()]
            rows = rows.take(np.array(takes, bool))
        ahead[side].rows = ahead[side].rows.then(rows)

    def _matched(self, reader: ColumnReader, ahead: Mapping[SideName, "_Ahead"]) -> Iterator[Pairs]:
        """The pairs of what is at hand, with each other and with what waits, until a side must be read to go on.

        What finds no partner waits. Both sides find back to the same place after keys that one of them lacks.
        """
        reference, candidate = (ahead[side] for side in SIDES)
        expected, actual = ([*each.rows.codes.tolist(), _NONE] for each in (reference, candidate))
        pairs: list[tuple[int, int]] = []
        late: list[tuple[int, LineBlock]] = []
        early: list[tuple[int, LineBlock]] = []
        i = j = 0
        while (i < len(reference.rows) or reference.ended) and (j < len(candidate.rows) or candidate.ended):
            if expected[i] == actual[j] == _NONE:
                break
            if expected[i] == actual[j]:
                pairs.append((i, j))
                i, j = i + 1, j + 1
            elif (line := self.partner(REFERENCE, expected[i])) is not None:
                late.append((i, line))
                i += 1
            elif (line := self.partner(CANDIDATE, actual[j])) is not None:
                early.append((j, line))
                j += 1
            else:
                i += self._wait(REFERENCE, expected[i], reference, i)
                j += self._wait(CANDIDATE, actual[j], candidate, j)
        if pairs:
            left, right = np.array(pairs).T
            yield candidate.rows.take(right), reference.rows.take(left)
        if late:
            indices, lines = zip(*late, strict=True)
            yield reader.columns(candidate.part, lines), reference.rows.take(np.array(indices))
        if early:
            indices, lines = zip(*early, strict=True)
            yield candidate.rows.take(np.array(indices)), reader.columns(reference.part, lines)
        reference.drop(i)
        candidate.drop(j)

    def _wait(self, side: SideName, code: int, ahead: "_Ahead", index: int) -> int:
        """Let the row at an index wait. Returns how many rows that are: one, or none behind the last."""
        if code == _NONE:
            return 0
        self.waiting[side][code] = ahead.rows.line(index)
        return 1

    def merge(self, part: "DumpJoin", numbers: Indices) -> None:
        """Add the part that comes next, whose place i is `numbers[i]` here.

        Raises UserError for a key that an earlier part of the same dump had.
        """
        for side in SIDES:
            if (twice := self.seen[side].merge(part.seen[side], numbers)) is not None:
                raise _comes_twice(self._records[side], self._places.key(twice))
            for code, line in part.waiting[side].items():
                unit, place = divmod(code, MOST_PLACES)
                moved = line._replace(first=line.first + self.lines[side])
                self.waiting[side][unit * MOST_PLACES + int(numbers[place])] = moved
            self.lines[side] += part.lines[side]

    def across_parts(self) -> Iterator[Pairs]:
        """The pairs of what waited in different parts. Whatever is left then has no partner."""
        common = [code for code in self.waiting[REFERENCE] if code in self.waiting[CANDIDATE]]
        if common:
            reader = ColumnReader(self._places)
            lines = {side: [self.waiting[side].pop(code) for code in common] for side in SIDES}
            actual, expected = (reader.columns(FilePart(self._records[s]), lines[s]) for s in (CANDIDATE, REFERENCE))
            yield actual, expected

    def units(self, side: SideName) -> list[int]:
        """The units that a side shows in the phase that most of them have: not those of a prompt or a seed image."""
        by_phase: dict[str, list[int]] = defaultdict(list)
        for place, (phase, *_) in enumerate(self._places.names):
            by_phase[phase].append(place)
        return max((self.seen[side].units(places) for places in by_phase.values()), key=len, default=[])


class _Ahead:
    """A part of a dump as it is read: the rows that are at hand, in the order of the file, and what is to come."""

    def __init__(self, part: FilePart, reader: ColumnReader) -> None:
        self.part = part
        self.rows = self._no_rows = reader.columns(part, [LineBlock(0, 0, b"")])
        self.ended = False
        self._unread = reader.read(part)
        self._bytes = 0

    @property
    def progress(self) -> float:
        """How much of the part has been read, between 0 and 1."""
        return self._bytes / max(1, (self.part.stop or 0) - self.part.start)

    def read(self) -> Columns:
        """Some more rows, none at the end. Raises UserError for a broken line."""
        length, rows = next(self._unread, (0, self._no_rows))
        self.ended = not length
        self._bytes += length
        return rows

    def drop(self, count: int) -> None:
        """Forget the first `count` rows."""
        self.rows = self.rows.take(slice(count, None))


def join_dumps(
    records: Mapping[SideName, Path], taken: Mapping[SideName, Selection | None], taker: Taker, parts: int
) -> DumpJoin:
    """Join the records of two files and hand the pairs to `taker`; each of `parts` in a process of its own.

    `taken`: what of a dump the other one recorded too, None for everything. What is left waiting has no partner.
    Raises UserError for a line that is no record, and for a key that comes twice.
    """
    whole, cut = DumpJoin(taker.places, records), _cut(records, parts)
    if len(cut) == 1:
        _hand_on(whole.pairs(cut[0], taken), taker)
        return whole
    # A copy goes to the processes: it stays empty, whatever is merged here meanwhile.
    for part, took in _in_processes(partial(_join_part, records, taken, deepcopy(taker)), cut):
        whole.merge(part, taker.merge(took, whole.lines))
    _hand_on(whole.across_parts(), taker)
    return whole


def _cut(records: Mapping[SideName, Path], parts: int) -> list[Mapping[SideName, FilePart]]:
    """Both files in so many parts; in one where the lines of either are too long to find their ends."""
    for number in (parts, 1):
        cut = [split(records[side], number) for side in SIDES]
        if len(cut[0]) == len(cut[1]) == number:
            break
    return [dict(zip(SIDES, pair, strict=True)) for pair in zip(*cut, strict=True)]


def _join_part(
    records: Mapping[SideName, Path],
    taken: Mapping[SideName, Selection | None],
    taker: Taker,
    parts: Mapping[SideName, FilePart],
) -> tuple[DumpJoin, Taker]:
    """The join of a part of each file, and what has taken its pairs."""
    join = DumpJoin(taker.places, records)
    _hand_on(join.pairs(parts, taken), taker)
    return join, taker


def _hand_on(pairs: Iterator[Pairs], taker: PairTaker) -> None:
    for actual, expected in pairs:
        taker.take(actual, expected)


def _in_processes(work: Callable[[Part], Result], parts: Collection[Part]) -> Iterator[Result]:
    """What work on each part comes to, in their order, each in a process of its own."""
    with worker_pool(len(parts), _settle) as pool:
        yield from pool.map(work, parts)


def processes(records: int) -> int:
    """In how many processes so many records are read. A process that was itself started by one starts none."""
    if multiprocessing.parent_process() is not None:
        return 1
    return max(1, min(available_cores(), records // _RECORDS_PER_PROCESS))


def _settle() -> None:
    """Prepare the process of a part, which makes no cycles for a collector to find."""
    end_with_the_parent()
    gc.disable()


def _comes_twice(path: Path, key: Key) -> UserError:
    """The error of a key that two records of a file have. Reads the file up to the second one."""
    places = Places()
    code = places.codes([key])[0]
    read = ColumnReader(places).read(FilePart(path))
    found = (at + 1 for _, rows in read for at in rows.at[rows.codes == code].tolist())
    first, second = next(found), next(found)
    return UserError(
        f"{path}, line {second}: {key} comes twice",
        found=f"a second record of the same unit, phase, step, site, branch and call; the first is on line {first}",
        expected="one record of each; `call` counts repeats within a pass",
        do="correct what wrote the dump",
    )
