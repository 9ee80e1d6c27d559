"""Comparisons, pictures and crossed frames with what a test is about, the rest as in any diverging run."""

from collections.abc import Sequence
from typing import Any

from waypoint_parity.harness.compare.pictures import FrameMetrics
from waypoint_parity.harness.explain.blame.parts import part_named
from waypoint_parity.harness.explain.blame.result import BLAME_SCHEMA, Blame, Cause, LocalError, Share, Signature
from waypoint_parity.harness.explain.investigation.result import CrossedFrame, Picture
from waypoint_parity.harness.judge.comparison import (
    COMPARISON_SCHEMA,
    Comparison,
    FrameGrowth,
    SiteResult,
    Verdict,
    WorstAtSite,
)
from waypoint_parity.harness.run.keys import Key

BOUND = 1e-3


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
        "frames": [],
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
        growth=[FrameGrowth(frame=frame, rel_l2=error, tolerance=BOUND) for frame, error in enumerate(growth)],
    )


def rung(phase: Any, site: str, error: float) -> WorstAtSite:
    """One rung of the ladder."""
    failed = int(error > BOUND)
    return WorstAtSite(
        phase=phase, step=0, site=site, rel_l2=error, tolerance=BOUND, frame=0, failed=failed, observations=1
    )


def off_by(levels: float, frame: int = 0) -> FrameMetrics:
    """A frame so far from the reference's, which has a level of 100 throughout."""
    return FrameMetrics(
        frame=frame,
        ssim=1 - levels / 255,
        mean_abs=levels,
        max_abs=1 + round(levels),
        psnr=40.0,
        rel_l2=levels / 100,
        bound=BOUND,
    )


def shown(*levels: float) -> list[Picture]:
    """The candidate's pictures, so far from the reference's."""
    return [Picture(metrics=off_by(value, frame), sharpness=1.0) for frame, value in enumerate(levels)]


def crossed(latents: float, decoder: float, output: float | None = 0.0, frame: int = 0) -> CrossedFrame:
    """What the reference's decoder makes of the candidate's `latents`, and the candidate's of the reference's."""
    return CrossedFrame(
        frame=frame,
        reference_decoder=off_by(latents, frame),
        candidate_decoder=off_by(decoder, frame),
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
    seen = LocalError(frame=0, phase="denoise", step=0, site="somewhere", call=0, rel_l2=0.1, bound=BOUND)
    return Cause(
        name=part,
        part=part,
        family=part_named(part).family,
        blocks=None,
        sites=[],
        first=seen,
        worst=seen,
        failed=1,
        observed=1,
        region=[],
        signature=Signature(onset=[], layers="none", norm="kept", course="steady"),
        explanations=[],
        necessity=Share(mean_abs=0.75, ssim=None, sharpness=None, all_frames=None),
    )
