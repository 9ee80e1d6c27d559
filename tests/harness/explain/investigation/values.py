"""Comparisons, pictures and crossed frames with what a test is about, the rest as in any diverging run."""

from collections.abc import Sequence
from typing import Any

from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.explain.blame.result import BLAME_SCHEMA, Blame, Cause, LocalError, Share, Signature
from waypoint_parity.harness.explain.investigation.result import CrossedPicture, Picture
from waypoint_parity.harness.judge.comparison import (
    COMPARISON_SCHEMA,
    Comparison,
    LatentError,
    SiteResult,
    Verdict,
    WorstAtSite,
)
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.family import family_named, part_named
from waypoint_parity.harness.run.keys import Key

BOUND = 1e-3
FAMILY = family_named("waypoint")


def comparison(**changes: Any) -> Comparison:
    """A comparison that diverged."""
    values: dict[str, Any] = {
        "schema": COMPARISON_SCHEMA,
        "verdict": Verdict.DIVERGED,
        "reference": "eager",
        "candidate": "candidate",
        "evidence": "tensors",
        "bounds": {},
        "reason": None,
        "first": None,
        "worst": None,
        "counts": {},
        "expected": 0,
        "compared": 0,
        "failures": [],
        "sites": [],
        "pictures": [],
    }
    return Comparison(**values | changes)


def diverged_at(*keys: Key, growth: Sequence[float] = (), output: float | None = None) -> Comparison:
    """A comparison that diverged at these places; `growth`: errors of the final latents; `output`: the decoder's."""
    failures = [
        SiteResult(
            order=order,
            block=None,
            verdict=Verdict.DIVERGED,
            rel_l2=0.5,
            tolerance=BOUND,
            **key._asdict(),
        )
        for order, key in enumerate(keys)
    ]
    rungs = [] if output is None else [rung("decode", "decoder.conv_out", output)]
    return comparison(
        first=failures[0],
        failures=failures,
        sites=rungs,
        growth=[LatentError(unit=unit, rel_l2=error, tolerance=BOUND) for unit, error in enumerate(growth)],
    )


def rung(phase: Any, site: str, error: float) -> WorstAtSite:
    """One rung of the ladder."""
    failed = int(error > BOUND)
    return WorstAtSite(
        phase=phase, step=0, site=site, rel_l2=error, tolerance=BOUND, unit=0, failed=failed, observations=1
    )


def off_by(levels: float, unit: int = 0) -> PictureMetrics:
    """A picture so far from the reference's, which has a level of 100 throughout."""
    return PictureMetrics(
        at=PictureAt(unit),
        ssim=1 - levels / 255,
        mean_abs=levels,
        max_abs=1 + round(levels),
        psnr=40.0,
        rel_l2=levels / 100,
        bound=BOUND,
    )


def shown(*levels: float) -> list[Picture]:
    """The candidate's pictures, so far from the reference's."""
    return [Picture(metrics=off_by(value, unit), sharpness=1.0) for unit, value in enumerate(levels)]


def crossed(latents: float, decoder: float, output: float | None = 0.0, unit: int = 0) -> CrossedPicture:
    """What the reference's decoder makes of the candidate's `latents`, and the candidate's of the reference's."""
    return CrossedPicture(
        at=PictureAt(unit),
        reference_decoder=off_by(latents, unit),
        candidate_decoder=off_by(decoder, unit),
        output=output,
    )


def blamed(of: Comparison, *parts: str, contradictions: Sequence[str] = ()) -> Blame:
    """A blame that names these parts."""
    return Blame(
        schema=BLAME_SCHEMA,
        reference="eager",
        candidate="candidate",
        comparison=of,
        causes=[_cause(part) for part in parts],
        fed="candidate",
        restored=True,
        left=None,
        contradictions=list(contradictions),
        unmeasured=[],
        sites=[],
        seconds=1.0,
    )


def _cause(part: str) -> Cause:
    seen = LocalError(unit=0, phase="denoise", step=0, site="somewhere", call=0, rel_l2=0.1, bound=BOUND)
    return Cause(
        name=part,
        part=part,
        group=part_named(part, FAMILY).group,
        blocks=None,
        sites=[],
        first=seen,
        worst=seen,
        failed=1,
        observed=1,
        region=[],
        signature=Signature(onset=[], layers="none", norm="kept", course="steady"),
        explanations=[],
        necessity=Share(mean_abs=0.75, ssim=None, sharpness=None, all_pictures=None),
    )
