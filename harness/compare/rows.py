"""Rows: the records of a dump as a diff of millions of them reads them, column by column."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.occurrences import MOST_PLACES, Indices, Places
from waypoint_parity.harness.record.blocks import FilePart, LineBlock, blocks
from waypoint_parity.harness.record.records import MOST_UNITS, SKETCH_SIZE, Record, decode_record

Numbers = npt.NDArray[np.float64]
Kind = tuple[str, tuple[int, ...]]
Form = tuple[str, int, str, str, int, str, tuple[int, ...]]

_SKETCH_BYTES = 4 * SKETCH_SIZE
# So many rows are compared at once, for numpy's sake.
_AT_ONCE = 1024


class Row(msgspec.Struct, gc=False):
    """A record, its fields in the order of the file, of types that take the least time to read."""

    unit: int
    phase: str
    step: int
    site: str
    call: int
    sigma: float | None
    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    absmean: float | None
    rms: float | None
    nan: int
    posinf: int
    neginf: int
    sample: list[float | None]
    sketch: bytes
    branch: str = ""
    digest: str | None = None


_form = attrgetter("phase", "step", "site", "branch", "call", "dtype", "shape")
_unit, _rms, _sketch, _digest = map(attrgetter, ("unit", "rms", "sketch", "digest"))
_special = attrgetter("nan", "posinf", "neginf")
_decoder = msgspec.json.Decoder(Row)


class Forms(dict[Form, int]):
    """The number of every place with every shape and dtype that it showed: all that rows repeat unit after unit."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places
        self._alike: dict[Kind, tuple[Kind, int]] = {}
        self._numbers: list[tuple[int, int, float]] = []
        self._table: Numbers = np.empty((0, 3))

    def __missing__(self, form: Form) -> int:
        *_, dtype, shape = form
        # Keys of the same shape and dtype share these objects: to look one up then touches less memory.
        shared, alike = self._alike.setdefault((dtype, shape), ((dtype, shape), len(self._alike)))
        self[form[:5] + shared] = number = len(self)
        self._numbers.append((self.places[form[:5]], alike, float(math.prod(shape))))
        return number

    def columns(self, forms: Indices) -> tuple[Indices, Indices, Numbers]:
        """Of forms [n]: their places, a number that is the same for equal shape and dtype, and their elements."""
        if len(self._table) < len(self):
            self._table = np.array(self._numbers)
        places, alike, elements = self._table[forms].T
        return places.astype(np.int64), alike.astype(np.int64), elements


class RowLines:
    """The lines that rows were read from, and the index of the first of them in its part."""

    def __init__(self, part: FilePart, first: int, content: bytes) -> None:
        self._part = part
        self._first = first
        self._content = content

    def line(self, index: int) -> bytes:
        """Line `index` of the part, without its end."""
        return self._lines[index - self._first]

    def record(self, index: int) -> Record:
        """The whole record on line `index` of the part. Raises UserError where it is none."""
        return decode_record(self._part, index, self.line(index))

    @cached_property
    def _lines(self) -> list[bytes]:
        return self._content.split(b"\n")


@dataclass(frozen=True)
class Rows:
    """Rows [n] of one dump. `at` is the index of their lines in the part, from 0.

    `alike` is the same number for equal shape and dtype; `elements` counts the finite ones, `special` [n,3] NaN, +inf
    and -inf; `digests` and `sources` are arrays of objects.
    """

    codes: Indices
    at: Indices
    alike: Indices
    elements: Numbers
    special: Numbers
    rms: Numbers
    sketches: npt.NDArray[np.float32]
    digests: npt.NDArray[np.object_]
    sources: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, which: slice | npt.NDArray[Any]) -> Self:
        """Some of the rows, by their indices or by a mask."""
        return type(self)(*(column[which] for column in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Rows one after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return parts[0] if len(parts) == 1 else cls(*map(np.concatenate, columns))

    def record(self, index: int) -> Record:
        """The whole record of a row."""
        source: RowLines = self.sources[index]
        return source.record(int(self.at[index]))

    def waiting(self, index: int) -> "Waiting":
        """A row on its own."""
        at = int(self.at[index])
        return Waiting(at, self.sources[index].line(at))


class Waiting(NamedTuple):
    """A row that is kept for later: the index of its line, and what that holds."""

    at: int
    line: bytes


class _Columns:
    """Takes rows, a block at a time, and lets go of them: what is not needed any more makes room in the caches."""

    def __init__(self, forms: Forms) -> None:
        self._all_forms = forms
        self._forms: list[int] = []
        self._units: list[int] = []
        self._special: list[tuple[int, int, int]] = []
        self._rms: list[float | None] = []
        self._digests: list[str | None] = []
        self._sketches: list[bytes] = []
        self._at: list[int] = []
        self._sources: list[RowLines] = []

    def __len__(self) -> int:
        return len(self._forms)

    def add(self, rows: list[Row], at: Iterable[int], sources: Iterable[RowLines]) -> None:
        """Take rows, the indices of their lines, and where they were read."""
        self._forms.extend(map(self._all_forms.__getitem__, map(_form, rows)))
        self._units.extend(map(_unit, rows))
        self._special.extend(map(_special, rows))
        self._rms.extend(map(_rms, rows))
        self._digests.extend(map(_digest, rows))
        self._sketches.append(b"".join(map(_sketch, rows)))
        self._at.extend(at)
        self._sources.extend(sources)

    def rows(self) -> Rows:
        """All of the rows."""
        places, alike, elements = self._all_forms.columns(np.fromiter(self._forms, np.int64))
        special = np.zeros((len(self), 3))
        if self._special != [(0, 0, 0)] * len(self):
            special = np.array(self._special, np.float64)
        return Rows(
            codes=np.fromiter(self._units, np.int64) * MOST_PLACES + places,
            at=np.fromiter(self._at, np.int64),
            alike=alike,
            elements=np.maximum(elements - special.sum(1), 0.0),
            special=special,
            rms=np.fromiter((rms or 0.0 for rms in self._rms), np.float64),
            sketches=np.frombuffer(b"".join(self._sketches), "<f4").reshape(-1, SKETCH_SIZE),
            digests=np.array(self._digests, object),
            sources=np.array(self._sources, object),
        )


def no_rows(forms: Forms) -> Rows:
    """No rows."""
    return _Columns(forms).rows()


def read_rows(part: FilePart, forms: Forms) -> Iterator[tuple[int, Rows]]:
    """(bytes, rows) of a part, some blocks at a time.

    Raises UserError, naming file and line, for a line that is no record.
    """
    columns, length = _Columns(forms), 0
    for block in blocks(part):
        rows = _decoded(part, block)
        source = RowLines(part, block.first, block.content)
        columns.add(rows, range(block.first, block.first + len(rows)), [source] * len(rows))
        length += len(block.content)
        if len(columns) >= _AT_ONCE:
            yield length, columns.rows()
            columns, length = _Columns(forms), 0
    if len(columns):
        yield length, columns.rows()


def rows_again(part: FilePart, waiting: Sequence[Waiting], forms: Forms) -> Rows:
    """The rows [n] of a part that waited."""
    columns = _Columns(forms)
    try:
        rows = _decoder.decode_lines(b"\n".join(line for _, line in waiting))
    except msgspec.ValidationError:
        rows = [_row(part, at, line) for at, line in waiting]
    columns.add(rows, (at for at, _ in waiting), (RowLines(part, *row) for row in waiting))
    return columns.rows()


def _decoded(part: FilePart, block: LineBlock) -> list[Row]:
    try:
        rows = _decoder.decode_lines(block.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = []
    units = list(map(_unit, rows)) or [-1]
    sketches = set(map(len, map(_sketch, rows)))
    whole = len(rows) == block.lines and sketches == {_SKETCH_BYTES} and min(units) >= 0 and max(units) < MOST_UNITS
    return rows if whole else _one_by_one(part, block)


def _one_by_one(part: FilePart, block: LineBlock) -> list[Row]:
    """The rows of a block that has a line which may be broken, or of the first schema."""
    lines = block.content.split(b"\n")[:-1]
    return [_row(part, index, line) for index, line in enumerate(lines, start=block.first)]


def _row(part: FilePart, index: int, line: bytes) -> Row:
    return _decoder.decode(msgspec.json.encode(decode_record(part, index, line)))
