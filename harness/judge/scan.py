"""The scan of the records of two dumps: in parts, one process each, whose results are added up."""

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from waypoint_parity.harness.compare.align import Matches, SideRecords, align
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.occurrences import Seen
from waypoint_parity.harness.compare.record_error import record_error, row_errors
from waypoint_parity.harness.compare.rows import Forms, Waiting
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.ledger import Ledger
from waypoint_parity.harness.judge.tally import Tally
from waypoint_parity.harness.processes import available_cores, end_with_the_parent
from waypoint_parity.harness.record.blocks import FilePart, split
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.family import family_named

# Below this a process takes longer to start than to read its part.
_RECORDS_PER_PROCESS = 100_000


@dataclass(frozen=True)
class ScanTask:
    """A part of each dump, the selection that the other dump took of it, how to judge, and the family's name."""

    reference: FilePart
    candidate: FilePart
    reference_taken: Selection | None
    candidate_taken: Selection | None
    judgement: Judgement
    family: str


@dataclass(frozen=True)
class Leftover:
    """Of one side: its number of lines, what it showed, and what waits for a partner."""

    lines: int
    seen: Seen
    waiting: dict[int, Waiting]


@dataclass(frozen=True)
class Scanned:
    """What a task found, counted from the beginnings of its parts. `waiting`, by code, found no partner in it."""

    tally: Tally
    reference: Leftover
    candidate: Leftover


def processes(records: int) -> int:
    """In how many processes so many records are read. A process that was itself started by one starts none."""
    if multiprocessing.parent_process() is not None:
        return 1
    return max(1, min(available_cores(), records // _RECORDS_PER_PROCESS))


def tasks(
    reference: Path,
    candidate: Path,
    taken: tuple[Selection | None, Selection | None],
    judgement: Judgement,
    family: str,
    parts: int,
) -> list[ScanTask]:
    """The tasks of a scan of two files of records; `taken` as in ScanTask, the reference's first."""
    pairs = list(zip(split(reference, parts), split(candidate, parts), strict=False))
    if len(pairs) < parts:
        pairs = [(split(reference, 1)[0], split(candidate, 1)[0])]
    return [ScanTask(*pair, *taken, judgement, family) for pair in pairs]


def scan(work: list[ScanTask]) -> Iterator[Scanned]:
    """What each task found, in their order. Raises UserError for a dump that is broken."""
    if len(work) == 1:
        yield run(work[0])
        return
    # Spawned, not forked: this process may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(work), context, initializer=_settle) as pool:
        yield from pool.map(run, work)


def _settle() -> None:
    """Prepare the process of a task, which makes no cycles for a collector to find."""
    end_with_the_parent()
    gc.disable()


def run(task: ScanTask) -> Scanned:
    """Match and judge the records of a task."""
    ledger = Ledger(task.judgement, family_named(task.family))
    forms = Forms(ledger.tally.places)
    reference = SideRecords(task.reference, forms, task.reference_taken)
    candidate = SideRecords(task.candidate, forms, task.candidate_taken)
    for matches in align(reference, candidate):
        judge(ledger, matches)
    left = (Leftover(side.lines, side.seen, side.waiting) for side in (reference, candidate))
    return Scanned(ledger.tally, *left)


def judge(ledger: Ledger, matches: Matches) -> None:
    """Enter matches into the ledger."""
    candidates, references = matches

    def error_of(index: int) -> Error:
        return record_error(candidates.record(index), references.record(index))

    errors = row_errors(candidates, references)
    ledger.judge(references.at, references.codes, errors, error_of, candidates.at)
