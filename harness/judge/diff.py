"""Diff: two dumps, compared offline from their records and frames alone, in one scan of both."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from waypoint_parity.harness.compare.contract import clock_shift, unlike_inputs, unlike_models
from waypoint_parity.harness.compare.pictures import PictureMetrics, picture_metrics, read_pixels
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.expected import expected_observations
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.ledger import incomparable
from waypoint_parity.harness.judge.scan import processes, scan, tasks
from waypoint_parity.harness.judge.total import Whole
from waypoint_parity.harness.record.records import (
    RECORDS_NAME,
    Manifest,
    Record,
    check_promised,
    kept_pictures,
    picture_path,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.run.family import Family, SlotFault, family_named
from waypoint_parity.harness.run.sites import Kind

EVIDENCE = "sketches"
UNLIKE_SELECTIONS = "the dumps recorded different selections; only what both recorded was compared"


class Dump(NamedTuple):
    """A finished dump: its folder, and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def records(self) -> Path:
        """The file of its records."""
        return self.folder / RECORDS_NAME


def open_dump(folder: Path) -> Dump:
    """The dump in `folder`. Raises UserError for a folder that is none, another schema, or an unfinished run."""
    return Dump(folder, read_manifest(folder))


def diff(reference: Path, candidate: Path, judgement: Judgement | None = None) -> Comparison:
    """Compare the dump `candidate` with the dump `reference`; without `judgement` by their dtype's fixed tolerance.

    Large dumps are read by several processes: a script of your own then needs `if __name__ == "__main__":`.
    Raises UserError for a dump that is broken or incomplete.
    """
    opened = open_dump(reference)
    fixed = fixed_tolerance(family_named(opened.manifest.family), dtype_of(opened))
    return diff_dumps(opened, open_dump(candidate), judgement or Judgement(fixed))


def dtype_of(dump: Dump) -> str:
    """The precision that the run computed in, as the command line spells it."""
    return dump.manifest.numerics["dtype"]


def diff_dumps(reference: Dump, candidate: Dump, judgement: Judgement) -> Comparison:
    """Compare two dumps that are open already; otherwise as `diff`."""
    sides, accepted = (candidate.manifest, reference.manifest), judgement.accepted_inputs
    names = (reference.manifest.implementation, candidate.manifest.implementation)
    judgement = replace(judgement, bounds=judgement.bounds.for_sketches(reference.manifest.observed))
    if reason := unlike_models(*sides, accepted):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    whole = _swept(reference, candidate, judgement)
    if reason := _shifted(reference, candidate, whole):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    expected = expected_observations(reference.manifest, candidate.manifest)
    pictures = list(_pictures(candidate.folder, reference.folder))
    comparison = whole.ledger.close(*names, evidence=EVIDENCE, expected=expected, pictures=pictures)
    if comparison.verdict is Verdict.INCOMPARABLE:
        return msgspec.structs.replace(comparison, reason=_with_lines(comparison, reference, candidate))
    if reason := unlike_inputs(*sides, accepted):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    notes = [UNLIKE_SELECTIONS] if _unlike_selections(reference, candidate) else []
    family = family_named(reference.manifest.family)
    wrong = any(rung.failed and family.sites.kind(rung.site) in (Kind.CACHE, Kind.MASK) for rung in comparison.sites)
    # Slot by slot only where a cache is wrong: it reads both dumps once more.
    slots = slot_faults(reference, candidate, family) if wrong else []
    return msgspec.structs.replace(comparison, slots=slots, notes=notes)


def _swept(reference: Dump, candidate: Dump, judgement: Judgement) -> Whole:
    """Both dumps, read and judged from their first line to their last."""
    family = reference.manifest.family
    whole = Whole(reference.records, candidate.records, judgement, family_named(family))
    taken = (candidate.manifest.selection, reference.manifest.selection)
    if not _unlike_selections(reference, candidate):
        taken = (None, None)
    parts = processes(max(reference.manifest.observed, candidate.manifest.observed))
    for scanned in scan(tasks(reference.records, candidate.records, taken, judgement, family, parts)):
        whole.add(scanned)
    for dump, half in ((reference, whole.reference), (candidate, whole.candidate)):
        check_promised(dump.records, half.lines, dump.manifest.observed)
    whole.finish()
    return whole


def _unlike_selections(reference: Dump, candidate: Dump) -> bool:
    return reference.manifest.selection != candidate.manifest.selection


def _shifted(reference: Dump, candidate: Dump, whole: Whole) -> str | None:
    """Why the runs cannot be compared, if the clock of one is that of the other shifted by some units."""
    places = whole.ledger.tally.places
    shift = clock_shift(whole.candidate.units(places), whole.reference.units(places))
    if not shift or _unlike_selections(reference, candidate):
        return None
    begins = "; ".join(f"{dump.records}, line 1: unit {_first_unit(dump)}" for dump in (candidate, reference))
    by = f"{abs(shift)} {'higher' if shift > 0 else 'lower'}"
    return f"the clock differs: every unit of the candidate is numbered {by} than the reference's ({begins})"


def _first_unit(dump: Dump) -> int:
    return next(read_records(dump.folder)).unit


def _with_lines(comparison: Comparison, reference: Dump, candidate: Dump) -> str:
    """The reason why the runs cannot be compared, with the lines that show it."""
    if comparison.first is None or comparison.first.lines is None:
        return str(comparison.reason)
    ours, theirs = comparison.first.lines
    return f"{comparison.reason} ({candidate.records}, line {ours}; {reference.records}, line {theirs})"


def _pictures(candidate: Path, reference: Path) -> Iterator[PictureMetrics]:
    """The metrics of every picture that both dumps have."""
    for at in kept_pictures(reference):
        if picture_path(candidate, at).is_file():
            actual, expected = read_pixels(picture_path(candidate, at)), read_pixels(picture_path(reference, at))
            if actual.shape == expected.shape:
                yield picture_metrics(at, actual, expected)


def slot_faults(reference: Dump, candidate: Dump, family: Family) -> list[SlotFault]:
    """The first wrong slots of the dump `candidate`; both are read once, a unit of both at a time."""
    comparison = family.caches.comparison(reference.manifest.caches or [], teacher_forced=False)
    order, candidates = count(), _telling(candidate, family)
    ahead = next(candidates, None)
    for unit, records in _telling(reference, family):
        for record in records:
            comparison.reference(next(order), _sign(record, family))
        while ahead is not None and ahead[0] <= unit:
            for record in ahead[1]:
                comparison.candidate(_sign(record, family))
            ahead = next(candidates, None)
    return comparison.faults


def _telling(dump: Dump, family: Family) -> Iterator[tuple[int, Iterator[Record]]]:
    """(unit, its records that tell of caches) of a dump."""
    records = (record for record in read_records(dump.folder) if family.caches.tells(record.site))
    return groupby(records, key=lambda record: record.unit)


def _sign(record: Record, family: Family) -> Any:
    return family.caches.sign(record.key, record.dtype, record.digest, record.slots)
