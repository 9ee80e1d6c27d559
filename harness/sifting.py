"""Reading the records of a few sites out of a dump without decoding the others."""

from collections.abc import Collection, Iterator
from pathlib import Path

from harness.lines import Part, blocks
from harness.records import RECORDS_NAME, Record, check_promised, decode_record, read_manifest


def records_mentioning(folder: Path, words: Collection[str]) -> Iterator[Record]:
    """The records of a dump whose line holds one of `words`: those of sites with it in their name, and perhaps others.

    Raises UserError, naming file and line, for a broken one of these, and for a file that ends before or after the
    record that its manifest promises as the last. To decode every record takes ten times as long.
    """
    sought = [word.encode() for word in words]
    part, number = Part(folder / RECORDS_NAME), 0
    promised = read_manifest(folder).observed
    for first, lines, content in blocks(part):
        for index, line in enumerate(content.split(b"\n")[:-1], start=first):
            if any(word in line for word in sought):
                yield decode_record(part, index, line)
        number = first + lines
    check_promised(part.path, number, promised)
