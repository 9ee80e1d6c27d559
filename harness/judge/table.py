"""The verdict table: takes the pairs of two runs, many at once, and closes with their comparison."""

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, count

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.columns import MOST_PLACES, Columns, Flags, Indices, Numbers, Places, Seen
from waypoint_parity.harness.compare.contract import accepted_sites
from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.compare.execution import Execution
from waypoint_parity.harness.compare.join import CANDIDATE, OTHER, REFERENCE, SideName
from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.compare.record_error import Errors, record_error, record_errors
from waypoint_parity.harness.compare.tensors_of_dumps import TensorsOfDumps
from waypoint_parity.harness.judge.comparison import (
    COMPARISON_SCHEMA,
    INFINITE,
    Comparison,
    LatentError,
    Mathematics,
    Precision,
    SiteResult,
    Verdict,
    WorstAtSite,
    contradicted,
    where_in,
)
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS, Bounds, Judgement, Limits
from waypoint_parity.harness.judge.recorded_exact import recorded_errors
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key, Rung, block_of, is_input, site_name
from waypoint_parity.harness.run.sites import Kind

ALLOWED_MISSING = "ALLOWED_MISSING"
ACCEPTED_INPUT = "ACCEPTED_INPUT"
MOST_FAILURES = 200
# Pairs that come one by one are judged so many at a time.
_BATCH = 512
# More than a file of records has lines.
LINES = 1 << 40
# Verdicts and kinds of sites as numbers, for columns.
_VERDICTS: tuple[str, ...] = (*Verdict, ACCEPTED_INPUT)
_VERDICT = {name: number for number, name in enumerate(_VERDICTS)}
_KIND = {kind: number for number, kind in enumerate(Kind)}
# A picture has metrics of its own, a mask is right or wrong, an input is equal or nothing is scored.
_HAS_WORST = np.array([kind not in (Kind.INPUT, Kind.PICTURE, Kind.MASK) for kind in Kind])

# What is counted of each place: pairs, what one side lacks, what fails; pairs with two exact values, and with an error
# over what rounding explains; pairs without an element; pairs of real numbers without both exact values.
_COUNTS = ("compared", "missing", "failed", "exacts", "locals", "empties", "lost")

# How many units are to show each rung; or how many observations there are to be, if no more is known.
Expected = Mapping[Rung, int] | int


class VerdictTable:
    """Judges every observation of two runs: counts, first failures, the worst error, growth, and the layer ladder.

    Its memory grows with the sites of a model, and by one byte for each observation that was entered: judged,
    accepted or allowed to be missing. The table of a part of the runs can be sent to another process, and is merged
    into that of the whole.
    """

    def __init__(
        self,
        judgement: Judgement,
        family: Family,
        tensors: TensorsOfDumps | None = None,
        *,
        execution: Execution | None = None,
        named: Mapping[SideName, Collection[str]] | None = None,
    ) -> None:
        """Raise UserError for an accepted input that does not exist.

        `tensors`: those that both of two dumps keep. `execution`: the order of their session, by which the first comes
        first; else it is that of units, and in a unit that of the reference's lines. `named`: the sites that each side
        says it has, and may not lack.
        """
        self.places = Places()
        self.counts: Counter[str] = Counter()
        self.failures: list[SiteResult] = []
        self.worst: SiteResult | None = None
        # The place in the execution after that of everything entered.
        self.end = 0
        # The least and the largest error that is wrong in any case, of those that were over what rounding explains.
        self._caught: tuple[float, float] = math.inf, 0.0
        # Observations of which neither side has a finite value, and the first of them with its place in the execution.
        self._hollow = 0
        self._first_hollow: tuple[int, Key] | None = None
        # By site, where its type is another one on either side: the first place in the execution, and both types.
        self._retyped: dict[str, tuple[int, tuple[str, str]]] = {}
        # Pairs of records whose error was taken from full tensors.
        self.by_tensors = 0
        self._tensors = tensors
        self._execution = execution
        self._named = named or {}
        self._least = judgement.least
        self._family = family.name
        self._sites = family.sites
        self._bounds = judgement.bounds
        self._accepted = accepted_sites(judgement.accepted_inputs, family)
        self._allowed_missing = judgement.allowed_missing
        # The first of every input site.
        self._differing: dict[str, SiteResult] = {}
        self._entered = Seen()
        # By unit, of the latest of its latents so far: its place in the execution, its key, and its error.
        self._latents: dict[int, tuple[int, Key, float]] = {}
        # Pairs that came one by one and are not yet judged.
        self._pairs: list[tuple[int, Key, Error]] = []
        # By place: how it is judged, with limits for each unit that has its own and one for the later ones; the worst
        # error, below any where there is none, and the unit that showed it; and how many observations there were.
        counts = [(name, np.int64) for name in _COUNTS]
        limits = ("limits", np.float64, (self._bounds.units + 1, 2))
        judged = [("kind", np.int8), ("accepted", np.bool_), limits, ("statistics_of", np.float64)]
        self._rows = np.zeros(
            0,
            [*judged, ("error", np.float64), ("unit", np.int64), ("exact", np.float64), ("local", np.float64), *counts],
        )

    def pair(self, order: int, key: Key, error: Error) -> None:
        """Both sides showed `key`, `error` apart; `order` is its place in the reference's execution."""
        self._pairs.append((order, key, error))
        if len(self._pairs) == _BATCH:
            self._judge_pairs()

    def take(self, actual: Columns, expected: Columns) -> None:
        """Both dumps have these records [n] of the same keys."""
        found, errors = recorded_errors(actual, expected, self._least), record_errors(actual, expected)
        kept = {} if self._tensors is None else self._tensors.errors(actual, expected, self.places)
        self.by_tensors += len(kept)
        for index, error in kept.items():
            errors.identical[index], errors.rel_l2[index] = error.identical, error.rel_l2
            errors.log_norm[index], errors.hollow[index] = error.log_norm, error.hollow
            errors.by_statistics_of[index] = 0

        def error_of(index: int) -> Error:
            error = kept.get(index) or record_error(actual.record(index), expected.record(index))
            return replace(error, exact=float(found.exact[index]), local=float(found.local[index]))

        least, largest = self._caught
        both = np.fmin.reduce(found.bound, initial=least), np.fmax.reduce(found.bound, initial=largest)
        self._caught = float(both[0]), float(both[1])
        known = errors._replace(exact=found.exact, local=found.local)
        order = expected.codes // MOST_PLACES * LINES + expected.at
        if self._execution is not None:
            order = self._execution.orders(expected.codes, self.places)
        self._judge(order, expected.codes, known, error_of, np.stack([actual.at, expected.at], 1) + 1)

    def missing(self, order: int, key: Key, *, lacking: SideName, seen_elsewhere: bool, note: str = "") -> None:
        """Only one side showed `key`; `lacking` names the other. Never a pass, an input as little as a site.

        `seen_elsewhere`: that side showed the site in other passes, or it names it. Then it is not one that it may lack
        by name, nor one of the optional sites, which it may lack altogether. `note` says what is missing, if not a
        record.
        """
        is_named = key.site in self._named.get(lacking, ())
        if self._sites.is_optional(key.site) and not (seen_elsewhere or is_named):
            return
        if self._execution is not None:
            order = self._execution.of(key)
        self._enter(np.array([order]), self.places.codes([key]))
        has = "names the site, and has no record of it" if is_named else "has no record of it"
        said = f"the {lacking} {has}"
        if key.call:
            often = "twice" if key.call == 1 else f"{key.call + 1} times"
            said = f"the {OTHER[lacking]} shows it {often} in this step, the {lacking} less often"
        self._missing(order, key, 1, note or said, seen_elsewhere or is_named)

    def merge(self, part: "VerdictTable", lines: Mapping[SideName, int]) -> Indices:
        """Add the table of a later part of two dumps, before which there are so many lines.

        Returns the numbers that the places of the part have here.
        """
        part._judge_pairs()
        before = lines[REFERENCE] if self._execution is None else 0
        numbers = np.array([self.places[place] for place in part.places.names], np.int64)
        ours, theirs = self._known(), part._known()
        self._raise(numbers, theirs["error"], theirs["unit"])
        for name in _COUNTS:
            ours[name][numbers] += theirs[name]
        for name in ("exact", "local"):
            ours[name][numbers] = np.fmax(ours[name][numbers], theirs[name])
        ours["statistics_of"][numbers] = np.fmax(ours["statistics_of"][numbers], theirs["statistics_of"])
        self._entered.merge(part._entered, numbers)
        self.end = max(self.end, part.end + before)
        self.by_tensors += part.by_tensors
        self._caught = min(self._caught[0], part._caught[0]), max(self._caught[1], part._caught[1])
        self.counts += part.counts
        if part._first_hollow is not None:
            first, key = part._first_hollow
            self._prove_nothing(first + before, key, part._hollow)
        for site, (order, dtypes) in part._retyped.items():
            self._retype(order + before, site, dtypes)
        for order, key, rel_l2 in part._latents.values():
            self._grow(order + before, key, rel_l2)
        for failure in part.failures:
            self._fail(failure.order + before, partial(_moved, failure, lines, before))
        if part.worst is not None:
            self._exceed(part.worst.distance, partial(_moved, part.worst, lines, before))
        for differing in part._differing.values():
            self._differ(differing.order + before, differing.key, partial(_moved, differing, lines, before))
        return numbers

    def close(
        self, reference: str, candidate: str, *, evidence: str, expected: Expected, pictures: Sequence[PictureMetrics]
    ) -> Comparison:
        """The comparison of the runs called `reference` and `candidate`; no score is given where an input differed."""
        self._judge_pairs()
        if differing := sorted(self._differing.values(), key=lambda result: result.order):
            reason = "; ".join(map(_difference, differing))
            return incomparable(
                reference, candidate, reason, bounds=self._bounds, evidence=evidence, first=differing[0]
            )
        self._lacking(expected)
        comparison = Comparison(
            schema=COMPARISON_SCHEMA,
            verdict=self._verdict(),
            reference=reference,
            candidate=candidate,
            evidence=evidence,
            bounds=self._bounds.to_json(),
            reason=None,
            first=self.failures[0] if self.failures else None,
            worst=self.worst,
            counts=dict(self.counts),
            expected=expected if isinstance(expected, int) else sum(expected.values()),
            compared=self._compared(expected),
            failures=self.failures,
            sites=self._ladder(),
            pictures=[msgspec.structs.replace(of, bound=self._picture_bound(of)) for of in pictures],
            growth=[self._growth(*self._latents[unit][1:]) for unit in sorted(self._latents)],
            family=self._family,
            notes=self._notes(),
        )
        return contradicted(comparison, self._contradictions())

    def _contradictions(self) -> list[str]:
        if self._first_hollow is None:
            return []
        where = f"{self._hollow} observations, first at {self._first_hollow[1]}"
        return [f"neither side has a finite value in {where}: nothing was compared there"]

    def _notes(self) -> list[str]:
        notes = []
        if self._retyped:
            site, (_, (found, wanted)) = min(self._retyped.items(), key=lambda each: each[1][0])
            which = "of 1 site" if len(self._retyped) == 1 else f"of {len(self._retyped)} sites"
            notes.append(f"the dtype {which} differs, first {site}: candidate {found}, reference {wanted}")
        if empty := int(self._known()["empties"].sum()):
            notes.append(f"{empty} observations have no element: nothing was compared there")
        return notes

    def mathematics(
        self, unfollowed: Mapping[str, Sequence[str]], *, rougher: Sequence[int] = ()
    ) -> Mathematics | None:
        """What the exact values say; None where there are none. See Mathematics for the arguments."""
        computed = self._computed()
        rows = self._rows[computed]
        if not rows["exacts"].any():
            return None
        return Mathematics(
            observations=int(rows["exacts"].sum()),
            worst=finite(float(np.fmax.reduce(rows["exact"]))),
            bound=SAME_MATHEMATICS,
            rougher=list(rougher),
            unfollowed={name: list(reasons) for name, reasons in unfollowed.items() if reasons},
            lost=int(rows["lost"].sum()),
            lost_sites=len({self.places.names[place][2] for place in computed[rows["lost"] > 0]}),
        )

    def precision(self, lanes: int) -> Precision | None:
        """The errors over what rounding explains, inherited or not, by the dumps' so many `lanes`; None without any."""
        computed = self._computed()
        rows = self._rows[computed]
        if not rows["locals"].any():
            return None
        phase, step, site, branch, _ = self.places.names[computed[np.nanargmax(rows["local"])]]
        return Precision(
            units=self._entered.units(range(len(self.places))),
            observations=int(rows["locals"].sum()),
            lanes=lanes,
            worst=finite(float(np.fmax.reduce(rows["local"]))),
            at=f"{site_name(site, branch)} in {phase} step {step}",
            reference=None,
            caught=self._caught,
        )

    @property
    def by_statistics(self) -> bool:
        """Whether of any pair of records there were only statistics."""
        return bool(self._known()["statistics_of"].any())

    @property
    def evidence(self) -> str:
        """What the errors of two dumps were taken from."""
        known = self._known()
        kinds = {
            "tensors of both dumps": self.by_tensors > 0,
            "sketches": bool((known["compared"][known["statistics_of"] == 0]).sum() > self.by_tensors),
            "statistics": self.by_statistics,
        }
        return " and ".join(kind for kind, used in kinds.items() if used) or "sketches"

    def compared_sites(self) -> set[str]:
        """The sites that both sides showed in some pass."""
        return {self.places.names[place][2] for place in np.flatnonzero(self._known()["compared"])}

    def _judge_pairs(self) -> None:
        """Judge the pairs that came one by one."""
        if self._pairs:
            orders, keys, errors = zip(*self._pairs, strict=True)
            self._pairs.clear()
            self._judge(np.array(orders), self.places.codes(keys), Errors.of(errors), errors.__getitem__)

    def _judge(
        self,
        order: Indices,
        codes: Indices,
        errors: Errors,
        error_of: Callable[[int], Error],
        lines: Indices | None = None,
    ) -> None:
        """Judge pairs [n]. `error_of` tells all of one error.

        In a diff `lines` [n,2] are the candidate's and the reference's, counted from 1.
        """
        self._enter(order, codes)
        units, places = np.divmod(codes, MOST_PLACES)
        verdicts, kinds = self._verdicts(units, places, errors), self._rows["kind"][places]

        def result(index: int) -> SiteResult:
            at = None if lines is None else (int(lines[index, 0]), int(lines[index, 1]))
            verdict, key = Verdict(_VERDICTS[verdicts[index]]), self.places.key(int(codes[index]))
            return self._result(int(order[index]), key, verdict, error_of(index), at)

        for index in np.flatnonzero(errors.hollow & (kinds != _KIND[Kind.MASK])).tolist():
            self._prove_nothing(int(order[index]), self.places.key(int(codes[index])), 1)
        for index in np.flatnonzero(errors.retyped).tolist():
            key, dtypes = self.places.key(int(codes[index])), error_of(index).dtypes
            if dtypes is not None:
                self._retype(int(order[index]), key.site, dtypes)
        for index in np.flatnonzero(verdicts == _VERDICT[Verdict.INCOMPARABLE]).tolist():
            self._differ(int(order[index]), self.places.key(int(codes[index])), partial(result, index))
        for index in np.flatnonzero(verdicts == _VERDICT[Verdict.MISSING]).tolist():
            key = self.places.key(int(codes[index]))
            self._missing(int(order[index]), key, 1, str(error_of(index).note), seen_elsewhere=True)
        diverged = np.isin(verdicts, [_VERDICT[Verdict.DIVERGED], _VERDICT[Verdict.UNEXPLAINED]])
        for index in np.flatnonzero(diverged).tolist():
            self._fail(int(order[index]), partial(result, index))
        if len(measured := np.flatnonzero(_HAS_WORST[kinds] & (verdicts != _VERDICT[Verdict.MISSING]))):
            index = int(measured[np.argmax(errors.distance[measured])])
            self._exceed(float(errors.distance[index]), partial(result, index))
        for index in np.flatnonzero(kinds == _KIND[Kind.LATENT]).tolist():
            self._grow(int(order[index]), self.places.key(int(codes[index])), float(errors.rel_l2[index]))
        self._keep(units, places, verdicts, errors)
        np.add.at(self._rows["failed"], places[diverged], 1)

    def _keep(self, units: Indices, places: Indices, verdicts: Indices, errors: Errors) -> None:
        """Keep of pairs [n] what is kept of every place, and count their verdicts; but what is missing."""
        there = verdicts != _VERDICT[Verdict.MISSING]
        # All but inputs that differ, which are beyond the verdicts of what was compared.
        compared = there & (verdicts <= _VERDICT[Verdict.DIVERGED])
        np.fmax.at(self._rows["statistics_of"], places[compared], errors.by_statistics_of[compared])
        self._raise(places[compared], errors.distance[compared], units[compared])
        for name in ("exact", "local"):
            values = getattr(errors, name)[compared]
            np.fmax.at(self._rows[name], places[compared], values)
            np.add.at(self._rows[f"{name}s"], places[compared], ~np.isnan(values))
        lost = compared & np.isnan(errors.exact) & ~errors.whole & ~errors.empty
        np.add.at(self._rows["lost"], places[lost], 1)
        np.add.at(self._rows["compared"], places[there], 1)
        np.add.at(self._rows["empties"], places[there & errors.empty], 1)
        numbers = np.bincount(verdicts[there], minlength=len(_VERDICTS)).tolist()
        for name, number in zip(_VERDICTS, numbers, strict=True):
            self._count(name, number)

    def _verdicts(self, units: Indices, places: Indices, errors: Errors) -> Indices:
        """The verdicts of pairs [n]."""
        rows = self._known()
        distance, norm = rows["limits"][places, np.minimum(units, self._bounds.units)].T
        inputs, accepted = rows["kind"][places] == _KIND[Kind.INPUT], rows["accepted"][places]
        # What is known to be right or wrong by itself is not judged by what it inherits.
        wrong: Flags = ((errors.exact > SAME_MATHEMATICS) | (errors.local > 1)) & ~inputs
        right: Flags = ~wrong & ~(np.isnan(errors.exact) & np.isnan(errors.local))
        unexplained: Flags = right & np.isnan(errors.exact) & (errors.grown > 1) & ~inputs
        # Whole numbers are equal or not; the levels of a picture are roundings.
        exactly = errors.whole & (rows["kind"][places] != _KIND[Kind.PICTURE])
        within: Flags = (errors.rel_l2 <= distance) & (errors.log_norm <= norm) & ~exactly
        by_statistics: Flags = errors.by_statistics_of > 0
        bound = _statistics_bound(self._bounds.statistics, distance, errors.by_statistics_of)
        not_refuted: Flags = errors.rel_l2 <= np.where(inputs | exactly, 0.0, bound)
        # The first that holds.
        cases = {
            Verdict.IDENTICAL: errors.identical & ~wrong,
            ACCEPTED_INPUT: inputs & accepted,
            Verdict.MISSING: by_statistics & np.isnan(errors.rel_l2),
            Verdict.NOT_REFUTED: by_statistics & not_refuted,
            Verdict.INCOMPARABLE: inputs,
            Verdict.WITHIN_NOISE: ((right & ~unexplained) | (within & ~wrong)) & ~by_statistics,
            Verdict.UNEXPLAINED: unexplained,
        }
        return np.select([*cases.values()], [_VERDICT[name] for name in cases], _VERDICT[Verdict.DIVERGED])

    def _known(self) -> npt.NDArray[np.void]:
        """What is known of every place, also of new ones."""
        if new := self.places.names[len(self._rows) :]:
            more = np.zeros(len(new), self._rows.dtype)
            more["error"] = -1.0
            more["exact"] = more["local"] = math.nan
            more["kind"] = [_KIND[self._sites.kind(site, phase)] for phase, _, site, *_ in new]
            more["accepted"] = [site in self._accepted for _, _, site, *_ in new]
            own = range(self._bounds.units + 1)
            more["limits"] = [[self._limit(Key(unit, *place)) for unit in own] for place in new]
            self._rows = np.concatenate([self._rows, more])
        return self._rows

    def _computed(self) -> Indices:
        """All places but those of inputs."""
        return np.flatnonzero(self._known()["kind"] != _KIND[Kind.INPUT])

    def _limit(self, key: Key) -> Limits:
        """The limits of one observation; a mask is right or wrong."""
        return Limits(0.0) if self._sites.kind(key.site, key.phase) is Kind.MASK else self._bounds.of(key)

    def _picture_bound(self, of: PictureMetrics) -> float:
        row = next(row for row in self._sites.rows if row.kind is Kind.PICTURE)
        return self._bounds.of(Key(of.at.unit, row.phases[0], of.at.step, row.name)).rel_l2

    # --- what is kept

    def _enter(self, order: Indices, codes: Indices) -> None:
        self._entered.add(codes)
        self.end = max(self.end, int(order.max()) + 1)

    def _count(self, name: str, number: int) -> None:
        if number:
            self.counts[name] += number

    def _fail(self, order: int, result: Callable[[], SiteResult]) -> None:
        """Keep a failure, if it is among the first in execution order."""
        if len(self.failures) < MOST_FAILURES or order < self.failures[-1].order:
            insort(self.failures, result(), key=lambda failure: failure.order)
            del self.failures[MOST_FAILURES:]

    def _differ(self, order: int, key: Key, result: Callable[[], SiteResult]) -> None:
        """Keep an input that differs, if it is the first of its site in execution order."""
        known = self._differing.get(key.site)
        if known is None or order < known.order:
            self._differing[key.site] = result()

    def _prove_nothing(self, order: int, key: Key, number: int) -> None:
        """Count observations without a finite value on either side, the first of them `key`."""
        self._hollow += number
        if self._first_hollow is None or order < self._first_hollow[0]:
            self._first_hollow = order, key

    def _retype(self, order: int, site: str, dtypes: tuple[str, str]) -> None:
        """Keep that a site is of two types, and where it is so first."""
        if site not in self._retyped or order < self._retyped[site][0]:
            self._retyped[site] = order, dtypes

    def _exceed(self, distance: float, result: Callable[[], SiteResult]) -> None:
        """Keep the error of an activation, if it is the worst."""
        if self.worst is None or distance > self.worst.distance:
            self.worst = result()

    def _grow(self, order: int, key: Key, rel_l2: float) -> None:
        """Keep the error of a latent, if it is its unit's last in execution order."""
        known = self._latents.get(key.unit)
        if known is None or order > known[0]:
            self._latents[key.unit] = order, key, rel_l2

    def _raise(self, places: Indices, errors: Numbers, units: Indices) -> None:
        """Keep the worst error of each place, and the first unit that showed it."""
        worst, first = self._rows["error"], self._rows["unit"]
        worse = (errors > worst[places]) | ((errors == worst[places]) & (units < first[places]))
        for index in np.flatnonzero(worse):
            place, error, unit = places[index], errors[index], units[index]
            if (error, -unit) > (worst[place], -first[place]):
                worst[place], first[place] = error, unit

    def _missing(self, order: int, key: Key, number: int, note: str, seen_elsewhere: bool) -> None:
        """Enter so many missing observations, the first of them `key`."""
        if not seen_elsewhere and any(fnmatchcase(key.site, pattern) for pattern in self._allowed_missing):
            self._count(ALLOWED_MISSING, number)
            return
        self._count(Verdict.MISSING, number)
        place = np.array([self.places[key[1:]]])
        rows = self._known()
        self._raise(place, np.array([math.inf]), np.array([key.unit]))
        for name in ("missing", "failed"):
            rows[name][place] += number
        self._fail(order, lambda: self._result(order, key, Verdict.MISSING, no_distance(note), None))

    def _lacking(self, expected: Expected) -> None:
        """Enter what neither side showed, of that which was expected: one failure a site, at the first such unit."""
        if isinstance(expected, int):
            if (lacking := expected - len(self._entered)) > 0 and not self._allowed_missing:
                note = f"neither side has a record of {lacking} of {expected} observations"
                self._missing(self.end, Key(0, "any", 0, "any site"), lacking, note, True)
            return
        shown, compared = self._entered.units(range(len(self.places))), self.compared_sites()
        for rung, number in expected.items():
            place = self.places.get((*rung, 0))
            seen = [] if place is None else self._entered.units_of(place)
            if len(seen) < number:
                unit = next(unit for unit in chain(shown, count()) if unit not in seen)
                key, note = Key(unit, *rung), "neither side has a record of it"
                order = self.end if self._execution is None else self._execution.of(key)
                self._missing(order, key, number - len(seen), note, key.site in compared or self._is_named(key.site))

    def _is_named(self, site: str) -> bool:
        return any(site in names for names in self._named.values())

    # --- what it comes to

    def _verdict(self) -> Verdict:
        """The worst verdict of any observation; to have compared no element, or those of inputs alone, is no pass."""
        rows = self._known()
        shown = np.flatnonzero(rows["compared"] + rows["missing"] > rows["empties"]).tolist()
        computed = any(not is_input(self.places.names[place][2]) for place in shown)
        found = [verdict for verdict in Verdict if self.counts[verdict]]
        return found[-1] if computed and found else Verdict.MISSING

    def _compared(self, expected: Expected) -> int:
        """How many observations were compared, of those expected each once in a unit."""
        compared = self._known()["compared"]
        if isinstance(expected, int):
            return int(compared.sum())
        places = (self.places.get((*rung, 0)) for rung in expected)
        return sum(int(compared[place]) for place in places if place is not None)

    def _shown(self) -> list[int]:
        """The places that are on the ladder, in execution order."""
        rows = self._known()
        shown: list[int] = np.flatnonzero(rows["compared"] + rows["missing"]).tolist()
        execution = self._execution
        # Places are numbered as they come.
        return shown if execution is None else sorted(shown, key=lambda at: execution.place(self.places.names[at]))

    def _ladder(self) -> list[WorstAtSite]:
        """The rungs of the ladder; the calls of one site are one rung."""
        rungs: dict[Rung, list[int]] = {}
        for place in self._shown():
            rungs.setdefault(Rung(*self.places.names[place][:4]), []).append(place)
        return [self._rung(rung, places) for rung, places in rungs.items()]

    def _rung(self, rung: Rung, places: list[int]) -> WorstAtSite:
        rows = self._rows[places]
        worst = rows[np.argmax(rows["error"])]
        unit = int(worst["unit"])
        return WorstAtSite(
            **rung._asdict(),
            rel_l2=finite(float(worst["error"])),
            tolerance=self._tolerance(self._bounds.of(Key(unit, *rung)).rel_l2, float(worst["statistics_of"])),
            unit=unit,
            failed=int(rows["failed"].sum()),
            observations=int((rows["compared"] + rows["missing"]).sum()),
            exact=_measured(float(np.fmax.reduce(rows["exact"]))),
            local=_measured(float(np.fmax.reduce(rows["local"]))),
        )

    def _growth(self, key: Key, rel_l2: float) -> LatentError:
        return LatentError(unit=key.unit, rel_l2=finite(rel_l2), tolerance=self._bounds.of(key).rel_l2)

    def _tolerance(self, rel_l2: float, statistics_of: float) -> float:
        """The largest error that passes at a site, by `rel_l2` or by statistics of so many elements."""
        if not statistics_of:
            return rel_l2
        return float(_statistics_bound(self._bounds.statistics, np.array(rel_l2), np.array(statistics_of)))

    def _result(
        self, order: int, key: Key, verdict: Verdict, error: Error, lines: tuple[int, int] | None
    ) -> SiteResult:
        limits = self._limit(key)
        return SiteResult(
            order=order,
            **key._asdict(),
            block=block_of(key.site),
            verdict=verdict,
            rel_l2=finite(error.rel_l2),
            tolerance=self._tolerance(limits.rel_l2, error.by_statistics_of),
            norm_tolerance=finite(limits.log_norm),
            cosine=error.cosine,
            norm_ratio=error.norm_ratio,
            max_abs=error.max_abs,
            note=error.note,
            exact=None if error.exact is None else _measured(error.exact),
            local=None if error.local is None else _measured(error.local),
            at_least=error.by_statistics_of > 0,
            grown=None if error.grown is None else _measured(error.grown),
            values=error.values,
            lines=lines,
        )


def _moved(result: SiteResult, lines: Mapping[SideName, int], before: int) -> SiteResult:
    """`result` of a part of the files, as counted from their beginning: after so many lines, and so many orders."""
    here = result.lines
    moved = None if here is None else (here[0] + lines[CANDIDATE], here[1] + lines[REFERENCE])
    return msgspec.structs.replace(result, order=result.order + before, lines=moved)


def _statistics_bound(least: float, tolerance: Numbers, elements: Numbers) -> Numbers:
    """The largest errors that statistics of so many elements may prove where those of values may be `tolerance`.

    An error that is independent of the values moves a norm by its size over the root of their number: twice that is
    allowed besides `least`.
    """
    return np.minimum(tolerance, least + 2 * tolerance / np.sqrt(np.maximum(elements, 1)))


def finite(value: float) -> float | None:
    """`value`, or None where it is none that JSON knows."""
    return value if math.isfinite(value) else None


def _measured(value: float) -> float | None:
    """`value` as a result keeps it: None where nothing was measured, and INFINITE for infinity."""
    return None if math.isnan(value) else min(value, INFINITE)


def _difference(differing: SiteResult) -> str:
    """Which input differs, and where; of a single number also the values."""
    where = where_in(differing.key)
    if differing.values is None:
        return f"{differing.site} differs at {where}"
    actual, expected = differing.values
    return f"{differing.site} is {actual:.9g}, expected {expected:.9g}, at {where}"


def incomparable(
    reference: str,
    candidate: str,
    reason: str,
    *,
    bounds: Bounds,
    evidence: str,
    first: SiteResult | None = None,
) -> Comparison:
    """The comparison of two runs that cannot be compared, for `reason`: no score of any kind."""
    return Comparison(
        schema=COMPARISON_SCHEMA,
        verdict=Verdict.INCOMPARABLE,
        reference=reference,
        candidate=candidate,
        evidence=evidence,
        bounds=bounds.to_json(),
        reason=reason,
        first=first,
        worst=None,
        counts={},
        expected=0,
        compared=0,
        failures=[],
        sites=[],
        pictures=[],
    )
