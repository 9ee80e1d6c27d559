"""Columns: many records as arrays; a number for every place in a run; and which units showed which places."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from operator import attrgetter
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.record.blocks import FilePart, LineBlock, blocks
from waypoint_parity.harness.record.records import (
    MOST_UNITS,
    SKETCH_SIZE,
    Count,
    Record,
    decode_record,
    is_whole,
    left_out,
)
from waypoint_parity.harness.run.keys import Key

# Phase, step, site, branch, call.
Place = tuple[str, int, str, str, int]
Indices = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# A key as one number, its code: unit * MOST_PLACES + place.
MOST_PLACES = 1 << 32

# Units of one block of marks.
_UNITS = 256
_SKETCH_BYTES = 4 * SKETCH_SIZE
# In the place of one that a record does not have: no distance is known.
_NO_SKETCH = np.full(SKETCH_SIZE, math.nan, "<f4").tobytes()
_SKETCH_LENGTHS = {0, _SKETCH_BYTES}
_NO_HEX = re.compile("[^0-9a-f]")
# So many records are compared at once, for numpy's sake.
_AT_ONCE = 1024

# The fields of a record, some as types that take less time to read; slots are not read.
_FASTER = {"unit": int, "shape": tuple[Count, ...] | None, "sketch": bytes, "digest": str | None}
_Row: Any = msgspec.defstruct(
    "_Row",
    [
        (field.name, _FASTER.get(field.name, field.type), msgspec.field(default=left_out(field)))
        for field in msgspec.structs.fields(Record)
        if field.name != "slots"
    ],
    gc=False,
)
_decoder = msgspec.json.Decoder(_Row)
_form = attrgetter("phase", "step", "site", "branch", "call", "dtype", "shape")
_unit, _rms, _sketch, _digest, _exact = map(attrgetter, ("unit", "rms", "sketch", "digest", "exact"))
_special = attrgetter("nan", "posinf", "neginf")


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


class RecordLines:
    """The lines of a block of records, and the part of a file that it belongs to."""

    def __init__(self, part: FilePart, block: LineBlock) -> None:
        self._part = part
        self._block = block

    def line(self, index: int) -> LineBlock:
        """Line `index` of the part, as a block of its own."""
        return LineBlock(index, 1, self._lines[index - self._block.first] + b"\n")

    def record(self, index: int) -> Record:
        """The whole record on line `index` of the part."""
        return decode_record(self._part, index, self._lines[index - self._block.first])

    @cached_property
    def _lines(self) -> list[bytes]:
        return self._block.content.split(b"\n")


@dataclass(frozen=True)
class Columns:
    """What a comparison needs of records [n] of one dump. `at` is the index of their lines in the part, from 0.

    `alike` is the same number for equal shape and dtype. `elements` counts all elements, NaN where nobody knows,
    `special` [n,3] NaN, +inf and -inf; `whole` says of whole numbers. `digests`, `exact` (None where a record has none)
    and `sources` are arrays of objects.
    """

    codes: Indices
    at: Indices
    alike: Indices
    elements: Numbers
    special: Numbers
    rms: Numbers
    sketches: npt.NDArray[np.float32]
    digests: npt.NDArray[np.object_]
    exact: npt.NDArray[np.object_]
    whole: Flags
    sources: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, which: slice | npt.NDArray[Any]) -> Self:
        """Some of the records, by their indices or by a mask."""
        return type(self)(*(column[which] for column in vars(self).values()))

    def then(self, more: Self) -> Self:
        """These records and more behind them."""
        both = zip(vars(self).values(), vars(more).values(), strict=True)
        return type(self)(*map(np.concatenate, both)) if len(self) else more

    def record(self, index: int) -> Record:
        """The whole record at an index."""
        source: RecordLines = self.sources[index]
        return source.record(int(self.at[index]))

    def line(self, index: int) -> LineBlock:
        """The line of the record at an index."""
        source: RecordLines = self.sources[index]
        return source.line(int(self.at[index]))


class ColumnReader:
    """Reads the records of dumps as columns, and numbers their places as they come."""

    def __init__(self, places: Places) -> None:
        self._places = places
        # Numbers of everything that records repeat unit after unit, and of shape with dtype alone.
        self._forms: defaultdict[tuple[Any, ...], int] = defaultdict(count().__next__)
        self._alike: defaultdict[tuple[Any, ...], int] = defaultdict(count().__next__)
        # By form: the numbers of its place and of its shape and dtype, its elements, whether they are whole numbers.
        self._table: Numbers = np.empty((0, 4))

    def read(self, part: FilePart) -> Iterator[tuple[int, Columns]]:
        """(bytes, columns) of a part, some blocks at a time.

        Raises UserError, naming file and line, for a line that is no record.
        """
        taken: list[LineBlock] = []
        for block in blocks(part):
            taken.append(block)
            if sum(each.lines for each in taken) >= _AT_ONCE:
                yield sum(len(each.content) for each in taken), self.columns(part, taken)
                taken = []
        if taken:
            yield sum(len(each.content) for each in taken), self.columns(part, taken)

    def columns(self, part: FilePart, read: Sequence[LineBlock]) -> Columns:
        """The records of blocks of a part. Raises UserError, naming file and line, for a line that is none."""
        # Block by block the rows are let go of: what is not needed any more makes room in the caches.
        fields = [self._fields(_rows(part, block)) for block in read]
        forms, units, special, rms, digests, exact, sketches = (
            list(chain.from_iterable(each)) for each in zip(*fields, strict=True)
        )
        lines = [block.lines for block in read]
        places, alike, elements, whole = self._of_forms(np.fromiter(forms, np.int64))
        specials = np.zeros((len(forms), 3))
        if special != [(0, 0, 0)] * len(forms):
            specials = np.array(special, np.float64)
        sources = np.fromiter((RecordLines(part, block) for block in read), object)
        return Columns(
            codes=np.fromiter(units, np.int64) * MOST_PLACES + places,
            at=np.fromiter(chain.from_iterable(range(b.first, b.first + b.lines) for b in read), np.int64),
            alike=alike,
            elements=elements,
            special=specials,
            rms=np.fromiter((value or 0.0 for value in rms), np.float64),
            sketches=np.frombuffer(b"".join(sketches), "<f4").reshape(-1, SKETCH_SIZE),
            digests=np.array(digests, object),
            exact=np.array(exact, object),
            whole=whole.astype(bool),
            sources=sources.repeat(lines),
        )

    def _fields(self, rows: list[Any]) -> tuple[list[Any], ...]:
        """Forms, units, special, rms, digests and exact of rows, and all of their sketches as one."""
        forms = list(map(self._forms.__getitem__, map(_form, rows)))
        columns = (list(map(field, rows)) for field in (_unit, _special, _rms, _digest, _exact))
        return forms, *columns, [b"".join(map(_sketch, rows))]

    def _of_forms(self, forms: Indices) -> tuple[Indices, Indices, Numbers, Numbers]:
        """Of forms [n]: their places; one number for equal shape and dtype; their elements; whether they are whole."""
        new = []
        for *place, dtype, shape in islice(self._forms, len(self._table), None):
            elements = math.nan if shape is None else math.prod(map(float, shape))
            new.append((self._places[tuple(place)], self._alike[dtype, shape], elements, is_whole(dtype)))
        if new:
            self._table = np.concatenate([self._table, np.array(new)])
        places, alike, elements, whole = self._table[forms].T
        return places.astype(np.int64), alike.astype(np.int64), elements, whole


def _rows(part: FilePart, block: LineBlock) -> list[Any]:
    """The rows of a block."""
    try:
        rows: list[Any] = _decoder.decode_lines(block.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = []
    units = list(map(_unit, rows)) or [-1]
    sketches = set(map(len, map(_sketch, rows)))
    digests = [digest for digest in map(_digest, rows) if digest is not None]
    spelt = set(map(len, digests)) <= {16} and not _NO_HEX.search("".join(digests))
    if (
        len(rows) == block.lines
        and sketches <= _SKETCH_LENGTHS
        and spelt
        and min(units) >= 0
        and max(units) < MOST_UNITS
    ):
        return rows if 0 not in sketches else list(map(_with_sketch, rows))
    # A line may be broken, or of the first schema.
    records = (decode_record(part, at, line) for at, line in enumerate(block.content.split(b"\n")[:-1], block.first))
    return [_with_sketch(_decoder.decode(msgspec.json.encode(record))) for record in records]


def _with_sketch(row: Any) -> Any:
    """A row, with numbers in the place of a sketch that it does not have."""
    row.sketch = row.sketch or _NO_SKETCH
    return row
