"""Lines of a file that may be of any size and may be broken, in blocks of whole lines."""

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from waypoint_parity.harness.errors import UserError

# Larger ones are slower: each is then new memory from the operating system, whose pages must be cleared first.
BLOCK = 128 << 10
# A record has about 700 bytes. A line that is longer than this is no record, and is not read any further.
LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class FilePart:
    """The lines of `path` that begin in [`start`, `stop`), which are offsets of line beginnings; None for the end."""

    path: Path
    start: int = 0
    stop: int | None = None

    def line_number(self, index: int) -> int:
        """The number in the file, from 1, of line `index` of the part, from 0. Reads the file up to the part."""
        return _lines_before(self.path, self.start) + index + 1


def split(path: Path, parts: int) -> list[FilePart]:
    """`path` in `parts` of about equal size; one alone where its lines are too long to find their ends."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        cuts = [0]
        for part in range(1, parts):
            file.seek(size * part // parts)
            if not file.readline(LONGEST_LINE).endswith(b"\n"):
                return [FilePart(path, 0, size)]
            cuts.append(file.tell())
    return [FilePart(path, *bounds) for bounds in zip(cuts, [*cuts[1:], size], strict=True)]


class LineBlock(NamedTuple):
    """Whole lines of a part: the index of the first of them in the part, how many there are, and what they hold."""

    first: int
    lines: int
    content: bytes


def blocks(part: FilePart) -> Iterator[LineBlock]:
    """The blocks of a part.

    Raises UserError, naming file and line, for a line that is too long, or cut short at the end of the file.
    """
    first = 0
    with opened(part.path) as file:
        end = os.fstat(file.fileno()).st_size
        file.seek(part.start)
        while content := file.read(BLOCK if part.stop is None else min(BLOCK, part.stop - file.tell())):
            rest = b"" if content.endswith(b"\n") else file.readline(LONGEST_LINE)
            content += rest
            if file.tell() == end and content.endswith(b"}"):
                # Whether the record is whole is for whoever reads it to say.
                content += b"\n"
            if part.start == 0 and not first:
                content = content.removeprefix(codecs.BOM_UTF8)
            lines = newlines(content)
            if not content.endswith(b"\n"):
                too_long = len(rest) == LONGEST_LINE
                problem = f"a line of more than {LONGEST_LINE} bytes" if too_long else "the line is cut short"
                raise not_a_record(part, first + lines, problem)
            yield LineBlock(first, lines, content)
            first += lines


def opened(path: Path) -> BinaryIO:
    """`path`, opened for reading. Raises UserError where that is impossible."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read", found=str(error), expected="the records of a dump", do="dump again"
        ) from error


def not_a_record(part: FilePart, index: int, problem: str, expected: str = "one whole JSON record") -> UserError:
    """The error of line `index` of a part, from 0."""
    return UserError(
        f"{part.path}, line {part.line_number(index)}: not a record",
        found=problem,
        expected=expected,
        do="dump again; a broken file gives no verdict",
    )


def newlines(block: bytes) -> int:
    """How many line ends a block has; numpy counts them three times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == 10))


def _lines_before(path: Path, stop: int) -> int:
    """How many line ends the first `stop` bytes of `path` hold."""
    count = 0
    with opened(path) as file:
        while stop > 0 and (read := file.read(min(BLOCK, stop))):
            count, stop = count + newlines(read), stop - len(read)
    return count
