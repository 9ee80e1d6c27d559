"""The rings of two dumps, slot by slot: a diff's wrong slots by meaning."""

from collections.abc import Iterator
from itertools import count, groupby
from pathlib import Path

from waypoint_parity.harness.families.waypoint.rings.comparison import RingComparison
from waypoint_parity.harness.families.waypoint.rings.side import tells_of_a_ring
from waypoint_parity.harness.judge.comparison import RingFault
from waypoint_parity.harness.record.records import Record, read_manifest, read_records


def ring_faults(reference: Path, candidate: Path) -> list[RingFault]:
    """The first wrong slots of the dump `candidate`; both are read once, a frame of both at a time.

    Raises UserError for a dump that is broken or incomplete.
    """
    comparison = RingComparison(read_manifest(reference).rings)
    order, candidates = count(), _frames(candidate)
    ahead = next(candidates, None)
    for frame, records in _frames(reference):
        for record in records:
            comparison.reference(next(order), record.sign)
        while ahead is not None and ahead[0] <= frame:
            for record in ahead[1]:
                comparison.candidate(record.sign)
            ahead = next(candidates, None)
    return comparison.faults


def _frames(folder: Path) -> Iterator[tuple[int, Iterator[Record]]]:
    """(frame, its records that tell of rings) of a dump."""
    records = (record for record in read_records(folder) if tells_of_a_ring(record.site))
    return groupby(records, key=lambda record: record.frame)
