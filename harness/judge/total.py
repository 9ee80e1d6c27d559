"""Assembling: what the tasks of a scan found, added up to the whole of two dumps."""

from collections import defaultdict
from pathlib import Path

from waypoint_parity.harness.compare.align import Matches, comes_twice
from waypoint_parity.harness.compare.occurrences import MOST_PLACES, Indices, Places, Seen
from waypoint_parity.harness.compare.rows import Forms, Rows, Waiting, rows_again
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.ledger import Ledger
from waypoint_parity.harness.judge.scan import Leftover, Scanned, judge
from waypoint_parity.harness.record.blocks import FilePart
from waypoint_parity.harness.run.family import Family


class Half:
    """One dump so far: its number of lines, what it showed, and what waits for a partner."""

    def __init__(self, records: Path) -> None:
        self.records = records
        self.lines = 0
        self.seen = Seen()
        self.waiting: dict[int, Waiting] = {}

    def add(self, part: Leftover, places: Places, numbers: Indices) -> None:
        """Add the part that comes next, whose place i is `numbers[i]` of `places`."""
        if (twice := self.seen.merge(part.seen, numbers)) is not None:
            raise comes_twice(self.records, places.key(twice))
        for code, (at, line) in part.waiting.items():
            unit, place = divmod(code, MOST_PLACES)
            self.waiting[unit * MOST_PLACES + int(numbers[place])] = Waiting(at + self.lines, line)
        self.lines += part.lines

    def waited(self, codes: list[int], forms: Forms) -> Rows:
        """The rows of these codes, which wait no longer."""
        return rows_again(FilePart(self.records), [self.waiting.pop(code) for code in codes], forms)

    def units(self, places: Places) -> list[int]:
        """The units that the dump shows in the phase that most of them have: not those of a prompt or a seed image."""
        by_phase: dict[str, list[int]] = defaultdict(list)
        for place, (phase, *_) in enumerate(places.names):
            by_phase[phase].append(place)
        return max((self.seen.units(numbers) for numbers in by_phase.values()), key=len, default=[])


class Whole:
    """Two dumps so far: the ledger of what was matched in the parts, and the halves that wait for each other."""

    def __init__(self, reference: Path, candidate: Path, judgement: Judgement, family: Family) -> None:
        self.ledger = Ledger(judgement, family)
        self.reference = Half(reference)
        self.candidate = Half(candidate)

    def add(self, part: Scanned) -> None:
        """Add the part that comes next. Raises UserError for a key that an earlier part of the same dump had."""
        tally, lines = self.ledger.tally, (self.candidate.lines, self.reference.lines)
        numbers = tally.merge(part.tally, lines)
        self.reference.add(part.reference, tally.places, numbers)
        self.candidate.add(part.candidate, tally.places, numbers)

    def finish(self) -> None:
        """Match what waited in different parts. Whatever is left then has no partner."""
        common = [code for code in self.reference.waiting if code in self.candidate.waiting]
        places, forms = self.ledger.tally.places, Forms(self.ledger.tally.places)
        if common:
            judge(self.ledger, Matches(self.candidate.waited(common, forms), self.reference.waited(common, forms)))
        compared = self.ledger.tally.compared_sites()
        for half, lacking in ((self.reference, "candidate"), (self.candidate, "reference")):
            for code, (at, _) in half.waiting.items():
                key = places.key(code)
                self.ledger.missing(at, key, lacking=lacking, seen_elsewhere=key.site in compared)
