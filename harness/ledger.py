"""The ledger: takes the pairs of two runs one by one and closes with their comparison."""

import fnmatch
import math
from bisect import insort
from collections import Counter
from collections.abc import Sequence

from harness.comparison import COMPARISON_SCHEMA, Comparison, SiteResult, Verdict, WorstAtSite
from harness.distance import Error
from harness.judgement import Judgement, Tolerance
from harness.keys import Key, Phase, block_of, is_input
from harness.metrics import FrameMetrics

MOST_FAILURES = 200
ALLOWED_MISSING = "ALLOWED_MISSING"
ACCEPTED_INPUT = "ACCEPTED_INPUT"


class Ledger:
    """Judges every observation of two runs. Its memory grows with the sites of a model, not with the frames."""

    def __init__(self, judgement: Judgement) -> None:
        self._tolerance = judgement.tolerance
        self._accepted_inputs = {f"input.{name}" for name in judgement.accepted_inputs}
        self._allowed_missing = judgement.allowed_missing
        self._counts: Counter[str] = Counter()
        self._failures: list[SiteResult] = []
        self._ladder: dict[tuple[Phase, int, str], WorstAtSite] = {}
        self._worst: SiteResult | None = None
        self._differing_input: SiteResult | None = None

    def pair(self, order: int, key: Key, error: Error) -> None:
        """Both sides saw `key`, `error` apart; `order` is its place in the reference's execution."""
        if is_input(key.site):
            self._input(order, key, error)
            return
        noise = error.rel_l2 <= self._tolerance.of(key.site)
        verdict = Verdict.IDENTICAL if error.identical else Verdict.WITHIN_NOISE if noise else Verdict.DIVERGED
        self._add(self._result(order, key, verdict, error))

    def missing(self, order: int, key: Key, *, lacking: str, seen_elsewhere: bool) -> None:
        """Only one side saw `key`; `lacking` names the side that did not. Never a pass, an input as little as a site.

        `seen_elsewhere`: that side showed the site in other passes. Then it is not one that it may lack by name.
        """
        if not seen_elsewhere and any(fnmatch.fnmatchcase(key.site, pattern) for pattern in self._allowed_missing):
            self._counts[ALLOWED_MISSING] += 1
            return
        absent = Error(identical=False, rel_l2=math.inf, note=f"the {lacking} has no record of it")
        self._add(self._result(order, key, Verdict.MISSING, absent))

    def close(
        self, reference: str, candidate: str, *, evidence: str, expected: int, frames: Sequence[FrameMetrics]
    ) -> Comparison:
        """The comparison of the runs called `reference` and `candidate`; no score is given where an input differed."""
        if self._differing_input is not None:
            differing = self._differing_input
            reason = f"{differing.site} differs at frame {differing.frame}, {differing.phase} step {differing.step}"
            return incomparable(
                reference, candidate, reason, tolerance=self._tolerance, evidence=evidence, first=differing
            )
        compared = sum(self._counts[v] for v in (Verdict.IDENTICAL, Verdict.WITHIN_NOISE, Verdict.DIVERGED))
        return Comparison(
            schema=COMPARISON_SCHEMA,
            verdict=self._verdict(),
            reference=reference,
            candidate=candidate,
            evidence=evidence,
            tolerance=self._tolerance.to_json(),
            reason=None,
            first=self._failures[0] if self._failures else None,
            worst=self._worst,
            counts=dict(self._counts),
            expected=expected,
            compared=compared,
            failures=self._failures,
            sites=list(self._ladder.values()),
            frames=list(frames),
        )

    def _verdict(self) -> Verdict:
        """The worst verdict of any observation; to have observed nothing, or nothing but inputs, is no pass."""
        computed = any(not is_input(rung.site) for rung in self._ladder.values())
        for verdict in (Verdict.DIVERGED, Verdict.MISSING, Verdict.WITHIN_NOISE, Verdict.IDENTICAL):
            if computed and self._counts[verdict]:
                return verdict
        return Verdict.MISSING

    def _input(self, order: int, key: Key, error: Error) -> None:
        """An input must be the same on both sides, bit for bit, unless a difference was accepted by name."""
        if error.identical:
            self._add(self._result(order, key, Verdict.IDENTICAL, error))
        elif key.site in self._accepted_inputs:
            self._counts[ACCEPTED_INPUT] += 1
        elif self._differing_input is None or order < self._differing_input.order:
            self._differing_input = self._result(order, key, Verdict.INCOMPARABLE, error)

    def _result(self, order: int, key: Key, verdict: Verdict, error: Error) -> SiteResult:
        return SiteResult(
            order=order,
            frame=key.frame,
            phase=key.phase,
            step=key.step,
            site=key.site,
            call=key.call,
            block=block_of(key.site),
            verdict=verdict,
            rel_l2=error.rel_l2 if math.isfinite(error.rel_l2) else None,
            tolerance=self._tolerance.of(key.site),
            cosine=error.cosine,
            norm_ratio=error.norm_ratio,
            max_abs=error.max_abs,
            note=error.note,
        )

    def _add(self, result: SiteResult) -> None:
        self._counts[result.verdict] += 1
        if not result.verdict.passes:
            insort(self._failures, result, key=lambda failure: failure.order)
            del self._failures[MOST_FAILURES:]
        # A frame has metrics of its own, an input is equal or nothing is scored, and a missing site has no error.
        activation = result.verdict is not Verdict.MISSING and result.site != "frame" and not is_input(result.site)
        if activation and (self._worst is None or result.distance > self._worst.distance):
            self._worst = result
        self._climb(result)

    def _climb(self, result: SiteResult) -> None:
        """Fold `result` into its rung of the ladder."""
        at = (result.phase, result.step, result.site)
        rung = self._ladder.get(at)
        worst = result if rung is None or result.distance > rung.distance else rung
        self._ladder[at] = WorstAtSite(
            phase=result.phase,
            step=result.step,
            site=result.site,
            rel_l2=worst.rel_l2,
            frame=worst.frame,
            failed=(rung.failed if rung else 0) + (not result.verdict.passes),
            observations=(rung.observations if rung else 0) + 1,
        )


def incomparable(
    reference: str,
    candidate: str,
    reason: str,
    *,
    tolerance: Tolerance,
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
        tolerance=tolerance.to_json(),
        reason=reason,
        first=first,
        worst=None,
        counts={},
        expected=0,
        compared=0,
        failures=[],
        sites=[],
        frames=[],
    )
