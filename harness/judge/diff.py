"""Diff: two dumps, compared offline from their records and frames alone, in one scan of both."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from waypoint_parity.harness.compare.contract import (
    clock_shift,
    unchecked,
    unlike_environments,
    unlike_inputs,
    unlike_models,
)
from waypoint_parity.harness.compare.execution import Execution
from waypoint_parity.harness.compare.join import (
    CANDIDATE,
    OTHER,
    REFERENCE,
    SIDES,
    DumpJoin,
    SideName,
    join_dumps,
    processes,
)
from waypoint_parity.harness.compare.pictures import (
    PictureMetrics,
    picture_metrics,
    read_pixels,
    unlike_their_records,
)
from waypoint_parity.harness.compare.tensors_of_dumps import TensorsOfDumps
from waypoint_parity.harness.judge.comparison import Comparison, Verdict, contradicted
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.table import LINES, Expected, VerdictTable, incomparable
from waypoint_parity.harness.record.records import (
    RECORDS_NAME,
    Manifest,
    PassSites,
    Record,
    check_promised,
    kept_pictures,
    picture_path,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.seal import broken_seals, is_sealed
from waypoint_parity.harness.record.selection import EVERYTHING
from waypoint_parity.harness.run.family import Family, SlotFault, family_named
from waypoint_parity.harness.run.keys import Key, Rung, is_input
from waypoint_parity.harness.run.sites import Kind

EVIDENCE = "sketches"
_BLIND = (
    "statistics alone prove a divergence or nothing: permutations and errors that keep them are not seen (at width "
    "2560 an error of 60 % moved a norm by 0.03 %)"
)
UNLIKE_SELECTIONS = "the dumps recorded different selections; only what both recorded was compared"


class Dump(NamedTuple):
    """A dump: its folder, and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def records(self) -> Path:
        """The file of its records."""
        return self.folder / RECORDS_NAME


def open_dump(folder: Path) -> Dump:
    """The dump in `folder`, finished or not. Raises UserError for a folder that is none, and for another schema."""
    return Dump(folder, read_manifest(folder, unfinished=True))


def diff(reference: Path, candidate: Path, judgement: Judgement | None = None) -> Comparison:
    """Compare the dump `candidate` with the dump `reference`; without `judgement` by their dtype's fixed tolerance.

    Large dumps are read by several processes: a script of your own then needs `if __name__ == "__main__":`.
    Raises UserError for a dump that is broken.
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
    family = family_named(reference.manifest.family)
    tensors = TensorsOfDumps(candidate.folder, reference.folder)
    passes = reference.manifest.passes or candidate.manifest.passes
    execution = None if passes is None else Execution(passes)
    table = VerdictTable(
        judgement,
        family,
        tensors,
        execution=execution,
        named={REFERENCE: reference.manifest.sites or (), CANDIDATE: candidate.manifest.sites or ()},
    )
    join = _joined(reference, candidate, table)
    if reason := _shifted(reference, candidate, join):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    expected = expected_observations(reference.manifest, candidate.manifest)
    # Of a family that shows none, none is judged: see _contradictions.
    shows = family.sites.sites(Kind.PICTURE)
    pictures = list(_pictures(candidate.folder, reference.folder)) if shows else []
    comparison = table.close(*names, evidence=table.evidence, expected=expected, pictures=pictures)
    if comparison.verdict is Verdict.INCOMPARABLE:
        return msgspec.structs.replace(comparison, reason=_with_lines(comparison, reference, candidate))
    if reason := unlike_inputs(*sides, accepted):
        return incomparable(*names, reason, bounds=judgement.bounds, evidence=EVIDENCE)
    followed = {dump.manifest.implementation: dump.manifest.followed for dump in (reference, candidate)}
    unfollowed = {name: run.unfollowed for name, run in followed.items() if run is not None}
    lanes = 0 if reference.manifest.followed is None else reference.manifest.followed.lanes
    consumed = any(map(is_input, table.compared_sites()))
    notes = [*comparison.notes, *unchecked(*sides, inputs=consumed), *unlike_environments(*sides)]
    notes += [UNLIKE_SELECTIONS] if _unlike_selections(reference, candidate) else []
    notes += [f"{table.by_tensors} observations were compared by full tensors"] if table.by_tensors else []
    notes += [_BLIND] if table.by_statistics else []
    notes += [f"{dump.folder}: {note}" for dump in (reference, candidate) for note in dump.manifest.notes]
    foreign = [str(dump.folder) for dump in (reference, candidate) if not is_sealed(dump.manifest)]
    notes += [f"nothing vouches for the files of {folder}: the dump has no digests" for folder in foreign]
    wrong = any(rung.failed and family.sites.kind(rung.site) in (Kind.CACHE, Kind.MASK) for rung in comparison.sites)
    # Slot by slot only where a cache is wrong: it reads both dumps once more.
    slots = slot_faults(reference, candidate, family, execution) if wrong else []
    contradictions = [
        each for dump in (reference, candidate) for each in _contradictions(dump, by_statistics=table.by_statistics)
    ]
    contradictions += _unlike_pictures(comparison)
    return msgspec.structs.replace(
        contradicted(comparison, contradictions),
        slots=slots,
        notes=notes,
        mathematics=table.mathematics(unfollowed),
        precision=table.precision(lanes),
    )


def _joined(reference: Dump, candidate: Dump, table: VerdictTable) -> DumpJoin:
    """The join of both dumps, whose observations are all entered into the table."""
    dumps: dict[SideName, Dump] = {REFERENCE: reference, CANDIDATE: candidate}
    unlike = _unlike_selections(reference, candidate)
    # What the other dump was to record too.
    taken = {side: dumps[OTHER[side]].manifest.selection if unlike else None for side in SIDES}
    parts = processes(max(dump.manifest.observed for dump in dumps.values()))
    join = join_dumps({side: dumps[side].records for side in SIDES}, taken, table, parts)
    for side in SIDES:
        check_promised(dumps[side].records, join.lines[side], dumps[side].manifest)
    enter_missing(join, table)
    _enter_missing_pictures(dumps, join, table)
    return join


def enter_missing(join: DumpJoin, table: VerdictTable) -> None:
    """Enter what found no partner, once everything else is in the table."""
    compared = table.compared_sites()
    for side in SIDES:
        for code, line in join.waiting[side].items():
            key = table.places.key(code)
            table.missing(key.unit * LINES + line.first, key, lacking=OTHER[side], seen_elsewhere=key.site in compared)


def _enter_missing_pictures(dumps: Mapping[SideName, Dump], join: DumpJoin, table: VerdictTable) -> None:
    """Enter the pictures that one dump keeps and the other does not, though it has a record of them."""
    sites = family_named(dumps[REFERENCE].manifest.family).sites
    places = [place for place in table.places if sites.kind(place[2], place[0]) is Kind.PICTURE]
    kept = {side: set(kept_pictures(dumps[side].folder)) for side in SIDES}
    for side in SIDES:
        units = {place: join.seen[side].units_of(table.places[place]) for place in places}
        # The first call of a step stands for all of its pictures.
        promised = {(unit, place[1]): Key(unit, *place) for place in reversed(places) for unit in units[place]}
        absent = Counter((at.unit, at.step) for at in kept[OTHER[side]] - kept[side])
        for at in sorted(absent.keys() & promised.keys()):
            note = f"the {side}'s dump does not keep {absent[at]} of the pictures that the other one keeps"
            table.missing(table.end, promised[at], lacking=side, seen_elsewhere=bool(kept[side]), note=note)


def _unlike_selections(reference: Dump, candidate: Dump) -> bool:
    return reference.manifest.selection != candidate.manifest.selection


def _shifted(reference: Dump, candidate: Dump, join: DumpJoin) -> str | None:
    """Why the runs cannot be compared, if the clock of one is that of the other shifted by some units."""
    shift = clock_shift(join.units(CANDIDATE), join.units(REFERENCE))
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


def _contradictions(dump: Dump, *, by_statistics: bool) -> list[str]:
    """Why a dump proves nothing by itself: it is not whole, it was changed, or its records contradict its contents."""
    manifest, found = dump.manifest, []
    if not manifest.complete:
        why = manifest.ended or "the run was interrupted, or goes on"
        found.append(f"{dump.folder} is incomplete: {why}")
    family = family_named(manifest.family)
    if kept_pictures(dump.folder) and not family.sites.sites(Kind.PICTURE):
        found.append(f"{dump.folder} keeps pictures, and no family says which site shows them: they were not compared")
    if is_sealed(manifest):
        found += broken_seals(dump.folder, manifest)
    else:
        found += unlike_their_records(dump.folder, family)
    # What a sealed dump has of tensors, its writer measured itself; statistics alone are what a source says.
    if by_statistics or not is_sealed(manifest):
        # torch takes a second to load, which other dumps need not wait for.
        from waypoint_parity.harness.record.record_check import self_contradictions

        if (said := self_contradictions(dump.folder)) is not None:
            found.append(said)
    return found


def _unlike_pictures(comparison: Comparison) -> list[str]:
    """Why a comparison that passes does not: pictures are further apart than the records of their site."""
    apart = [picture for picture in comparison.pictures if not picture.within_noise]
    # A sketch, by which their site was judged, tells distances to within 9 %.
    apart = [picture for picture in apart if (picture.rel_l2 or math.inf) > 2 * (picture.bound or 0.0)]
    if not (comparison and apart):
        return []
    first = f"first in unit {apart[0].at}: SSIM {apart[0].ssim:.6f}, mean |d| {apart[0].mean_abs:.4g} of 255"
    return [f"{len(apart)} pictures are further apart than their records tell, {first}"]


def slot_faults(
    reference: Dump, candidate: Dump, family: Family, execution: Execution | None = None
) -> list[SlotFault]:
    """The first wrong slots of the dump `candidate`; both are read a unit at a time, in the order of `execution`."""
    comparison = family.caches.comparison(reference.manifest.caches or [], teacher_forced=False)
    order, candidates = count(), _telling(candidate, family, execution)
    ahead = next(candidates, None)
    for unit, records in _telling(reference, family, execution):
        for record in records:
            comparison.reference(next(order), _sign(record, family))
        while ahead is not None and ahead[0] <= unit:
            for record in ahead[1]:
                comparison.candidate(_sign(record, family))
            ahead = next(candidates, None)
    return comparison.faults


def _telling(dump: Dump, family: Family, execution: Execution | None) -> Iterator[tuple[int, Iterable[Record]]]:
    """(unit, its records that tell of caches) of a dump, in the order of execution where that is known."""

    def told() -> Iterator[Record]:
        return (record for record in read_records(dump.folder) if family.caches.tells(record.site))

    if execution is None:
        yield from groupby(told(), key=_unit)
        return
    in_units = all(first <= second for first, second in pairwise(map(_unit, told())))
    records = told() if in_units else iter(sorted(told(), key=_unit))
    for unit, of in groupby(records, key=_unit):
        yield unit, sorted(of, key=lambda record: execution.of(record.key))


def _unit(record: Record) -> int:
    return record.unit


def _sign(record: Record, family: Family) -> Any:
    return family.caches.sign(record.key, record.dtype, record.digest, record.slots)


def expected_observations(reference: Manifest, candidate: Manifest) -> Expected:
    """How many units show each rung of a session, by two manifests: of that which both dumps were to record.

    Where a manifest does not tell the passes of its session: how many observations there are, which for two unlike
    selections nobody knows.
    """
    selections = [side.selection or EVERYTHING for side in (reference, candidate)]
    if reference.passes is None or reference.units is None:
        return reference.expected if selections[0] == selections[1] else 0
    lacked = _lacked(reference, candidate)
    expected: dict[Rung, int] = {}
    for kind in reference.passes:
        for rung in _rungs(kind):
            if rung.site not in lacked:
                keys = (Key(unit, *rung) for first, stop in kind.units for unit in range(first, stop))
                number = sum(all(side.takes(key) for side in selections) for key in keys)
                expected[rung] = expected.get(rung, 0) + number
    return {rung: number for rung, number in expected.items() if number}


def _rungs(kind: PassSites) -> Iterator[Rung]:
    for name in kind.sites:
        site, _, branch = name.partition("@")
        yield Rung(kind.phase, kind.step, site, branch)


def _lacked(reference: Manifest, candidate: Manifest) -> set[str]:
    """The optional sites of the reference that the candidate does not have."""
    if candidate.passes is None:
        return set()
    expected, shown = (
        {rung.site for kind in side.passes or () for rung in _rungs(kind)} for side in (reference, candidate)
    )
    sites = family_named(reference.family).sites
    return {site for site in expected - shown if sites.is_optional(site)}
