"""The ledger: takes the pairs of two runs, one by one or many at once, and closes with their comparison."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, count

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.contract import accepted_sites
from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.compare.occurrences import MOST_PLACES, Indices
from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.compare.record_error import Errors
from waypoint_parity.harness.judge.comparison import COMPARISON_SCHEMA, Comparison, SiteResult, Verdict, where_in
from waypoint_parity.harness.judge.judgement import Bounds, Judgement, Limits
from waypoint_parity.harness.judge.tally import Tally, finite
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key, Rung, block_of
from waypoint_parity.harness.run.sites import Kind

ALLOWED_MISSING = "ALLOWED_MISSING"
ACCEPTED_INPUT = "ACCEPTED_INPUT"
# Pairs that come one by one are judged so many at a time.
_BATCH = 512
# How a place is judged. A picture has metrics of its own, a mask is right or wrong, an input is equal or nothing is
# scored.
_LATENT, _ACTIVATION, _PICTURE, _MASK, _INPUT, _ACCEPTED = range(6)
_JUDGED_AS = {Kind.LATENT: _LATENT, Kind.PICTURE: _PICTURE, Kind.MASK: _MASK}

# How many units are to show each rung; or how many observations there are to be, if no more is known.
Expected = Mapping[Rung, int] | int


class Ledger:
    """Judges every observation of two runs."""

    def __init__(self, judgement: Judgement, family: Family) -> None:
        """Raise UserError for an accepted input that does not exist."""
        self._family = family.name
        self._sites = family.sites
        self.tally = Tally(judgement.bounds)
        self._bounds = judgement.bounds
        self._accepted = accepted_sites(judgement.accepted_inputs, family)
        self._allowed_missing = judgement.allowed_missing
        # Of every place: the limits in each unit that has its own, then those of the later units.
        self._limits = np.empty((0, self._bounds.units + 1, 2))
        self._kinds: npt.NDArray[np.int8] = np.empty(0, np.int8)
        self._pairs: list[tuple[int, Key, Error]] = []

    def pair(self, order: int, key: Key, error: Error) -> None:
        """Both sides saw `key`, `error` apart; `order` is its place in the reference's execution."""
        self._pairs.append((order, key, error))
        if len(self._pairs) == _BATCH:
            self._judge_pairs()

    def judge(
        self, order: Indices, codes: Indices, errors: Errors, error_of: Callable[[int], Error], lines: Indices | None
    ) -> None:
        """Both sides saw `codes` [n] of `tally.places`, `errors` [n] apart; `order` [n] as in `pair`.

        `error_of` tells all of one error. In a diff `order` counts the reference's lines, and `lines` [n] the
        candidate's.
        """
        tally, places = self.tally, self.tally.enter(order, codes)
        kinds, same = self._kinds_of(places), errors.identical
        outputs = (kinds < _INPUT) & ~same
        noise = self._noise(codes, errors, outputs)
        diverged, differing = outputs & ~noise, (kinds == _INPUT) & ~same

        def result(index: int) -> SiteResult:
            verdict = Verdict.INCOMPARABLE if differing[index] else _verdict(same[index], noise[index])
            at = None if lines is None else (int(lines[index]) + 1, int(order[index]) + 1)
            return self._result(int(order[index]), tally.places.key(int(codes[index])), verdict, error_of(index), at)

        for index in np.flatnonzero(differing).tolist():
            tally.differ(int(order[index]), partial(result, index))
        for index in np.flatnonzero(diverged).tolist():
            tally.fail(int(order[index]), partial(result, index))
        if len(activations := np.flatnonzero(kinds <= _ACTIVATION)):
            index = activations[np.argmax(errors.distance[activations])]
            tally.exceed(float(errors.distance[index]), lambda: result(index))
        for index in np.flatnonzero(kinds == _LATENT).tolist():
            tally.growth.add(int(order[index]), tally.places.key(int(codes[index])), errors.at(index))
        tally.climb(codes, errors.distance, same | noise | diverged, diverged)
        numbers = {Verdict.IDENTICAL: same, Verdict.WITHIN_NOISE: noise, Verdict.DIVERGED: diverged}
        for name, mask in (*numbers.items(), (ACCEPTED_INPUT, (kinds == _ACCEPTED) & ~same)):
            tally.add(name, int(np.count_nonzero(mask)))

    def missing(self, order: int, key: Key, *, lacking: str, seen_elsewhere: bool) -> None:
        """Only one side saw `key`; `lacking` names the side that did not. Never a pass, an input as little as a site.

        `seen_elsewhere`: that side showed the site in other passes. Then it is not one that it may lack by name, nor
        one of the optional sites, which it may lack altogether.
        """
        if self._sites.is_optional(key.site) and not seen_elsewhere:
            return
        self.tally.enter(np.array([order]), self.tally.places.codes([key]))
        self._missing(order, key, 1, f"the {lacking} has no record of it", seen_elsewhere)

    def close(
        self, reference: str, candidate: str, *, evidence: str, expected: Expected, pictures: Sequence[PictureMetrics]
    ) -> Comparison:
        """The comparison of the runs called `reference` and `candidate`; no score is given where an input differed."""
        self._judge_pairs()
        tally = self.tally
        if (differing := tally.differing_input) is not None:
            names, reason = (reference, candidate), _difference(differing)
            return incomparable(*names, reason, bounds=self._bounds, evidence=evidence, first=differing)
        self._lacking(expected)
        return Comparison(
            schema=COMPARISON_SCHEMA,
            verdict=tally.verdict(),
            reference=reference,
            candidate=candidate,
            evidence=evidence,
            bounds=self._bounds.to_json(),
            reason=None,
            first=tally.failures[0] if tally.failures else None,
            worst=tally.worst,
            counts=dict(tally.counts),
            expected=expected if isinstance(expected, int) else sum(expected.values()),
            compared=tally.compared(None if isinstance(expected, int) else expected),
            failures=tally.failures,
            sites=tally.ladder(),
            pictures=[msgspec.structs.replace(of, bound=self._picture_bound(of)) for of in pictures],
            growth=tally.growth.units,
            family=self._family,
        )

    def _picture_bound(self, of: PictureMetrics) -> float:
        row = next(row for row in self._sites.rows if row.kind is Kind.PICTURE)
        return self._bounds.of(Key(of.at.unit, row.phases[0], of.at.step, row.name)).rel_l2

    def _judge_pairs(self) -> None:
        """Judge the pairs that came one by one."""
        if self._pairs:
            orders, keys, errors = zip(*self._pairs, strict=True)
            self._pairs.clear()
            codes = self.tally.places.codes(keys)
            self.judge(np.array(orders), codes, Errors.of(errors), errors.__getitem__, None)

    def _noise(self, codes: Indices, errors: Errors, judged: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which of the errors that are to be `judged` are within their limits."""
        units, places = np.divmod(codes, MOST_PLACES)
        distance, norm = self._limits_of(places, np.minimum(units, self._bounds.units))
        noise: npt.NDArray[np.bool_] = judged & (errors.rel_l2 <= distance) & (errors.log_norm <= norm)
        return noise

    def _limits_of(self, places: Indices, units: Indices) -> npt.NDArray[np.float64]:
        """The limits of places [n] in units [n], from a table of all limits of each place."""
        new = self.tally.places.names[len(self._limits) :]
        if new:
            own = range(self._bounds.units + 1)
            limits = [[self._limit(Key(unit, *place)) for unit in own] for place in new]
            self._limits = np.concatenate([self._limits, np.array(limits)])
        return self._limits[places, units].T

    def _limit(self, key: Key) -> Limits:
        """The limits of one observation; a mask is right or wrong."""
        return Limits(0.0) if self._sites.kind(key.site, key.phase) is Kind.MASK else self._bounds.of(key)

    def _kinds_of(self, places: Indices) -> npt.NDArray[np.int8]:
        new = self.tally.places.names[len(self._kinds) :]
        if new:
            kinds = [self._kind(phase, site) for phase, _, site, *_ in new]
            self._kinds = np.concatenate([self._kinds, np.array(kinds, np.int8)])
        return self._kinds[places]

    def _kind(self, phase: str, site: str) -> int:
        kind = self._sites.kind(site, phase)
        if kind is Kind.INPUT:
            return _ACCEPTED if site in self._accepted else _INPUT
        return _JUDGED_AS.get(kind, _ACTIVATION)

    def _lacking(self, expected: Expected) -> None:
        """Enter what neither side showed, of that which was expected: one failure a site, at the first such unit."""
        if isinstance(expected, int):
            if (lacking := expected - len(self.tally.entered)) > 0 and not self._allowed_missing:
                note = f"neither side has a record of {lacking} of {expected} observations"
                self._missing(self.tally.end, Key(0, "any", 0, "any site"), lacking, note, True)
            return
        shown, compared = self.tally.entered.units(range(len(self.tally.places))), self.tally.compared_sites()
        for rung, number in expected.items():
            seen = self.tally.units_of(rung)
            if len(seen) < number:
                unit = next(unit for unit in chain(shown, count()) if unit not in seen)
                key, note = Key(unit, *rung), "neither side has a record of it"
                self._missing(self.tally.end, key, number - len(seen), note, key.site in compared)

    def _missing(self, order: int, key: Key, number: int, note: str, seen_elsewhere: bool) -> None:
        if not seen_elsewhere and any(fnmatchcase(key.site, pattern) for pattern in self._allowed_missing):
            self.tally.add(ALLOWED_MISSING, number)
            return
        self.tally.add(Verdict.MISSING, number)
        self.tally.miss(key, number)
        self.tally.fail(order, lambda: self._result(order, key, Verdict.MISSING, no_distance(note), None))

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
            tolerance=limits.rel_l2,
            norm_tolerance=finite(limits.log_norm),
            cosine=error.cosine,
            norm_ratio=error.norm_ratio,
            max_abs=error.max_abs,
            note=error.note,
            values=error.values,
            lines=lines,
        )


def _verdict(same: bool, noise: bool) -> Verdict:
    return Verdict.IDENTICAL if same else Verdict.WITHIN_NOISE if noise else Verdict.DIVERGED


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
