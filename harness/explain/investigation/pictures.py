"""The decoded frames of two dumps: how far apart, how sharp, and what tells them apart."""

from pathlib import Path

from waypoint_parity.harness.compare.pictures import FrameMetrics, Pixels, read_pixels
from waypoint_parity.harness.compare.sharpness import ReferenceFrame, sharpness
from waypoint_parity.harness.explain.investigation.picture_floor import picture_floor
from waypoint_parity.harness.explain.investigation.result import Picture
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.record.records import frame_path


def pictures(reference: Path, candidate: Path, comparison: Comparison) -> list[Picture]:
    """Every frame that `comparison` of the two dumps has metrics of; none of runs that cannot be compared.

    Raises UserError for a frame that cannot be read.
    """
    return [
        picture(
            metrics,
            read_pixels(frame_path(candidate, metrics.frame)),
            read_pixels(frame_path(reference, metrics.frame)),
        )
        for metrics in comparison.frames
    ]


def picture(metrics: FrameMetrics, actual: Pixels, expected: Pixels) -> Picture:
    """One frame `actual` against `expected`, both [height,width,3] uint8; `metrics` are theirs."""
    sharp = sharpness(expected)
    # Looking for what tells two frames apart takes a while, and noise is told by its size.
    decision = None if metrics.within_noise else ReferenceFrame(expected).decide(actual)
    return Picture(
        metrics=metrics,
        sharpness=_sharpness_ratio(metrics, actual, sharp),
        decision=decision,
        floor=picture_floor(expected, sharp, metrics.bound),
    )


def _sharpness_ratio(metrics: FrameMetrics, actual: Pixels, sharp: float) -> float | None:
    if not sharp:
        return None
    return sharpness(actual) / sharp if metrics.max_abs else 1.0
