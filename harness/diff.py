"""Diff: two dumps, compared offline from their records and frames alone, in one sweep over both."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from harness.compare_records import record_error
from harness.comparison import Comparison
from harness.contract import broken_contract
from harness.errors import UserError
from harness.judgement import Judgement, fixed_tolerance
from harness.keys import Key
from harness.ledger import Ledger, incomparable
from harness.metrics import FrameMetrics, frame_metrics, read_pixels
from harness.records import Record, frame_path, read_manifest, read_records

EVIDENCE = "sketches"


class Match(NamedTuple):
    """The records of one key; a side is None where it has none. `order` is the place in the reference's file."""

    order: int
    candidate: Record | None
    reference: Record | None


def diff(reference: Path, candidate: Path, judgement: Judgement | None = None) -> Comparison:
    """Compare the dump `candidate` with the dump `reference`; without `judgement` by their dtype's fixed tolerance.

    Raises UserError for a dump that is broken or incomplete.
    """
    expected, actual = read_manifest(reference), read_manifest(candidate)
    judgement = judgement or Judgement(fixed_tolerance(expected.numerics["dtype"]))
    names = (expected.implementation, actual.implementation)
    if reason := broken_contract(actual, expected, judgement.accepted_inputs):
        return incomparable(*names, reason, tolerance=judgement.tolerance, evidence=EVIDENCE)
    ledger = Ledger(judgement)
    _judge(ledger, align(read_records(candidate), read_records(reference)))
    frames = list(_frames(candidate, reference))
    return ledger.close(*names, evidence=EVIDENCE, expected=expected.expected, frames=frames)


def _judge(ledger: Ledger, matches: Iterator[Match]) -> None:
    """Enter every match into the ledger. Those without a partner come last, when all sites of both sides are known."""
    common: set[str] = set()
    for order, candidate, reference in matches:
        if candidate is not None and reference is not None:
            common.add(reference.site)
            ledger.pair(order, reference.key, record_error(candidate, reference))
        elif reference is not None:
            ledger.missing(order, reference.key, lacking="candidate", seen_elsewhere=reference.site in common)
        elif candidate is not None:
            ledger.missing(order, candidate.key, lacking="reference", seen_elsewhere=candidate.site in common)


def align(candidate: Iterator[Record], reference: Iterator[Record]) -> Iterator[Match]:
    """Match the records of two dumps by key. What waits for its partner is all that is held in memory."""
    waiting_candidates: dict[Key, tuple[int, Record]] = {}
    waiting_references: dict[Key, tuple[int, Record]] = {}
    for order, (actual, expected) in enumerate(zip_longest(candidate, reference)):
        if expected is not None:
            _wait(waiting_references, order, expected)
        if actual is not None:
            _wait(waiting_candidates, order, actual)
        for key in dict.fromkeys(record.key for record in (expected, actual) if record is not None):
            if key in waiting_references and key in waiting_candidates:
                place, record = waiting_references.pop(key)
                yield Match(place, waiting_candidates.pop(key)[1], record)
    yield from (Match(order, None, record) for order, record in waiting_references.values())
    yield from (Match(order, record, None) for order, record in waiting_candidates.values())


def _wait(waiting: dict[Key, tuple[int, Record]], order: int, record: Record) -> None:
    if record.key in waiting:
        raise UserError(
            f"{record.key}: comes twice in a dump",
            found="a second record of the same frame, phase, step, site and call",
            expected="one record of each; `call` counts repeats within a pass",
            do="correct what wrote the dump",
        )
    waiting[record.key] = (order, record)


def _frames(candidate: Path, reference: Path) -> Iterator[FrameMetrics]:
    """The metrics of every frame that both dumps have."""
    frame = 0
    while frame_path(reference, frame).is_file() and frame_path(candidate, frame).is_file():
        actual, expected = read_pixels(frame_path(candidate, frame)), read_pixels(frame_path(reference, frame))
        if actual.shape == expected.shape:
            yield frame_metrics(frame, actual, expected)
        frame += 1
