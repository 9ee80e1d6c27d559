"""The check of a run against a baseline: the same, within noise, regressed, or a baseline that is out of date."""

import enum
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import msgspec

from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.diff import Dump, diff_dumps, open_dump
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.sweep.baseline.document import BaselineDump, OpenedBaseline
from waypoint_parity.harness.sweep.baseline.provenance import (
    Difference,
    accepted_inputs,
    check_accepted,
    differences,
    lifts,
    provenance,
)
from waypoint_parity.harness.sweep.baseline.runs import RunDumps

CHECK_SCHEMA = "waypoint-parity/baseline-check/1"


class Outcome(enum.StrEnum):
    """Of one dump of a baseline, and of a whole check; from the best to the worst.

    A run that lacks a dump, or regressed, fails, whatever else is out of date.
    """

    IDENTICAL = "IDENTICAL"
    WITHIN_NOISE = "WITHIN_NOISE"
    STALE = "STALE"
    MISSING = "MISSING"
    REGRESSED = "REGRESSED"

    @property
    def passes(self) -> bool:
        """Whether the run is as good as the baseline."""
        return self in (Outcome.IDENTICAL, Outcome.WITHIN_NOISE)


class EntryCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dump of a baseline.

    `comparison` is None where the run lacks it and where it was given something else; of a STALE one it decides
    nothing. `differences` make it STALE; `accepted` would have, and were accepted.
    """

    name: str
    outcome: Outcome
    comparison: Comparison | None = None
    differences: list[Difference] = []
    accepted: list[Difference] = []
    notes: list[str] = []

    def __bool__(self) -> bool:
        return self.outcome.passes


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A run, held against a baseline. True where it is as good in every dump of it.

    `not_in_baseline`: dumps of the run that the baseline does not have, and that nothing was said of.
    """

    schema: str
    baseline: str
    entries: list[EntryCheck]
    not_in_baseline: list[str] = []

    @property
    def outcome(self) -> Outcome:
        """The worst of any dump."""
        return max((entry.outcome for entry in self.entries), key=list(Outcome).index)

    def __bool__(self) -> bool:
        return self.outcome.passes


def read_check(path: Path) -> Check:
    """The check in a file. Raises UserError for a broken file and for another schema."""
    return read_document(path, Check, CHECK_SCHEMA, called="a check of a baseline", do="check again")


def check(
    baseline: OpenedBaseline,
    run: RunDumps,
    judgement_of: Callable[[Dump], Judgement],
    accepted: Collection[str] = (),
) -> Check:
    """Hold the dumps of a run against a baseline; `judgement_of` says how one is judged.

    `accepted`: what may differ in the provenance, by name. Raises UserError for a name that is none of it, and for a
    broken dump.
    """
    check_accepted(accepted)
    entries = baseline.document.entries
    return Check(
        schema=CHECK_SCHEMA,
        baseline=baseline.document.name,
        entries=[
            _checked(name, entry, open_dump(baseline.folder / name), run.dumps[name].dump, judgement_of, accepted)
            if name in run.dumps
            else EntryCheck(name=name, outcome=Outcome.MISSING)
            for name, entry in entries.items()
        ],
        not_in_baseline=[name for name in run.dumps if name not in entries],
    )


def _checked(
    name: str,
    entry: BaselineDump,
    baseline: Dump,
    run: Dump,
    judgement_of: Callable[[Dump], Judgement],
    accepted: Collection[str],
) -> EntryCheck:
    """One dump of the run against the baseline's of the same name."""
    same = _base_name(entry.implementation) == _base_name(run.manifest.implementation)
    found = differences(entry.provenance, provenance(run.manifest), same_implementation=same)
    lifted = [difference for difference in found if lifts(accepted, difference)]
    stale = [difference for difference in found if difference not in lifted]
    judgement, family = judgement_of(run), family_named(run.manifest.family)
    judgement = replace(judgement, accepted_inputs=(*judgement.accepted_inputs, *accepted_inputs(lifted, family)))
    comparison = None if accepted_inputs(stale, family) else diff_dumps(baseline, run, judgement)
    return EntryCheck(
        name=name,
        outcome=Outcome.STALE if stale or comparison is None else _outcome(comparison),
        comparison=comparison,
        differences=stale,
        accepted=lifted,
        notes=_notes(baseline, run, same=same),
    )


def _outcome(comparison: Comparison) -> Outcome:
    """What the comparison of two runs means that were given the same.

    Where they then consumed something else, which no comparison scores, the run does something else with it than the
    baseline did; and what is not seen any more is no pass.
    """
    passing = {Verdict.IDENTICAL: Outcome.IDENTICAL, Verdict.WITHIN_NOISE: Outcome.WITHIN_NOISE}
    # By statistics alone nothing can be told of it.
    passing[Verdict.NOT_REFUTED] = Outcome.STALE
    return passing.get(comparison.verdict, Outcome.REGRESSED)


def _notes(baseline: Dump, run: Dump, *, same: bool) -> list[str]:
    """What is told beside the numbers and decides nothing."""
    ours, theirs = run.manifest, baseline.manifest
    notes = []
    if not same:
        notes.append(
            f"the baseline is of {theirs.implementation}, the run of {ours.implementation}: "
            "what each says of itself was not compared"
        )
    if ours.source_revision != theirs.source_revision:
        revisions = Difference(name="commit", baseline=theirs.source_revision, run=ours.source_revision)
        notes.append(str(revisions))
    return notes


def _base_name(implementation: str) -> str:
    """An implementation without its options, which the provenance tells apart; a path may have a "+" of its own."""
    location, colon, name = implementation.rpartition(":")
    return location + colon + name.partition("+")[0]
