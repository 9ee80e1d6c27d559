"""Diff: two dumps, compared offline from their records and frames alone, in one sweep over both."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from waypoint_parity.harness.compare.contract import clock_shift, unlike_inputs, unlike_models
from waypoint_parity.harness.compare.pictures import FrameMetrics, frame_metrics, read_pixels
from waypoint_parity.harness.families.waypoint.rings.diff import ring_faults
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.expected import expected_observations
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.ledger import incomparable
from waypoint_parity.harness.judge.scan import processes, sweep, tasks
from waypoint_parity.harness.judge.total import Whole
from waypoint_parity.harness.record.records import (
    RECORDS_NAME,
    Manifest,
    check_promised,
    frame_path,
    frames_of,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.run.keys import ring_part

EVIDENCE = "sketches"
UNLIKE_SELECTIONS = "the dumps recorded different selections; judged is what both recorded"


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
    return diff_dumps(opened, open_dump(candidate), judgement or Judgement(fixed_tolerance(dtype_of(opened))))


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
    frames = list(_frames(candidate.folder, reference.folder))
    comparison = whole.ledger.close(*names, evidence=EVIDENCE, expected=expected, frames=frames)
    if comparison.verdict is Verdict.INCOMPARABLE:
        return msgspec.structs.replace(comparison, reason=_with_lines(comparison, reference, candidate))
    if reason := unlike_inputs(*sides, accepted):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    notes = [UNLIKE_SELECTIONS] if _unlike_selections(reference, candidate) else []
    wrong = any(rung.failed and ring_part(rung.site) for rung in comparison.sites)
    # Slot by slot only where a ring is wrong: it reads both dumps once more.
    ring = ring_faults(reference.folder, candidate.folder) if wrong else []
    return msgspec.structs.replace(comparison, ring=ring, notes=notes)


def _swept(reference: Dump, candidate: Dump, judgement: Judgement) -> Whole:
    """Both dumps, read and judged from their first line to their last."""
    whole = Whole(reference.records, candidate.records, judgement)
    taken = (candidate.manifest.selection, reference.manifest.selection)
    if not _unlike_selections(reference, candidate):
        taken = (None, None)
    parts = processes(max(reference.manifest.observed, candidate.manifest.observed))
    for swept in sweep(tasks(reference.records, candidate.records, taken, judgement, parts)):
        whole.add(swept)
    for dump, half in ((reference, whole.reference), (candidate, whole.candidate)):
        check_promised(dump.records, half.lines, dump.manifest.observed)
    whole.finish()
    return whole


def _unlike_selections(reference: Dump, candidate: Dump) -> bool:
    return reference.manifest.selection != candidate.manifest.selection


def _shifted(reference: Dump, candidate: Dump, whole: Whole) -> str | None:
    """Why the runs cannot be compared, if the clock of one is that of the other shifted by some frames."""
    places = whole.ledger.tally.places
    shift = clock_shift(whole.candidate.generated(places), whole.reference.generated(places))
    if not shift or _unlike_selections(reference, candidate):
        return None
    begins = "; ".join(f"{dump.records}, line 1: frame {_first_frame(dump)}" for dump in (candidate, reference))
    by = f"{abs(shift)} {'higher' if shift > 0 else 'lower'}"
    return f"the clock differs: every frame of the candidate is numbered {by} than the reference's ({begins})"


def _first_frame(dump: Dump) -> int:
    return next(read_records(dump.folder)).frame


def _with_lines(comparison: Comparison, reference: Dump, candidate: Dump) -> str:
    """The reason why the runs cannot be compared, with the lines that show it."""
    if comparison.first is None or comparison.first.lines is None:
        return str(comparison.reason)
    ours, theirs = comparison.first.lines
    return f"{comparison.reason} ({candidate.records}, line {ours}; {reference.records}, line {theirs})"


def _frames(candidate: Path, reference: Path) -> Iterator[FrameMetrics]:
    """The metrics of every frame that both dumps have."""
    for frame in frames_of(reference):
        if frame_path(candidate, frame).is_file():
            actual, expected = read_pixels(frame_path(candidate, frame)), read_pixels(frame_path(reference, frame))
            if actual.shape == expected.shape:
                yield frame_metrics(frame, actual, expected)
