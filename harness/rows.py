"""Rows: the records of a dump as a diff of millions of them reads them, in batches."""

from collections.abc import Iterator
from operator import attrgetter

import msgspec
import numpy as np
import numpy.typing as npt

from harness.keys import Key, Phase
from harness.lines import Block, Part, blocks
from harness.records import SKETCH_SIZE, Frame, Record, decode_record


class Row(msgspec.Struct, kw_only=True, gc=False):
    """A record with its sketch as bytes, which takes less time to read."""

    frame: Frame
    phase: Phase
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
    digest: str | None = None

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.frame, self.phase, self.step, self.site, self.call)

    def record(self) -> Record:
        """The whole record."""
        return msgspec.json.decode(msgspec.json.encode(self), type=Record)


_sketch = attrgetter("sketch")
_decoder = msgspec.json.Decoder(Row)


def read_rows(part: Part) -> Iterator[tuple[int, int, list[Row]]]:
    """(index of the first line in the part, bytes, rows) of every block of a part.

    Raises UserError, naming file and line, for a line that is no record.
    """
    for block in blocks(part):
        try:
            rows = _decoder.decode_lines(block.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            rows = []
        whole = len(rows) == block.lines and set(map(len, map(_sketch, rows))) == {4 * SKETCH_SIZE}
        yield block.first, len(block.content), rows if whole else _one_by_one(part, block)


def projections(rows: list[Row]) -> npt.NDArray[np.float32]:
    """The sketches [n,SKETCH_SIZE]."""
    return np.frombuffer(b"".join(map(_sketch, rows)), "<f4").reshape(len(rows), SKETCH_SIZE)


def _one_by_one(part: Part, block: Block) -> list[Row]:
    """The rows of a block that has a line which may be broken."""
    lines = block.content.split(b"\n")[:-1]
    records = [decode_record(part, index, line) for index, line in enumerate(lines, start=block.first)]
    return [_decoder.decode(msgspec.json.encode(record)) for record in records]
