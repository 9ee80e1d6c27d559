"""The decoded pictures of two dumps: how far apart, how sharp, and what tells them apart."""

from pathlib import Path

from waypoint_parity.harness.compare.pictures import PictureMetrics, Pixels, read_pixels
from waypoint_parity.harness.compare.sharpness import LEAST_SIDE, ReferenceFrame, sharpness
from waypoint_parity.harness.explain.investigation.picture_floor import picture_floor
from waypoint_parity.harness.explain.investigation.result import Picture
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.record.records import picture_path


def pictures(reference: Path, candidate: Path, comparison: Comparison) -> list[Picture]:
    """Every picture that `comparison` of the two dumps has metrics of; none of runs that cannot be compared.

    Raises UserError for a picture that cannot be read.
    """
    return [
        picture(
            metrics,
            read_pixels(picture_path(candidate, metrics.at)),
            read_pixels(picture_path(reference, metrics.at)),
        )
        for metrics in comparison.pictures
    ]


def picture(metrics: PictureMetrics, actual: Pixels, expected: Pixels) -> Picture:
    """One picture `actual` against `expected`, both [H,W,3] uint8; `metrics` are theirs."""
    sharp = sharpness(expected)
    # Looking for what tells two pictures apart takes a while, and noise is told by its size.
    is_told = not metrics.within_noise and min(expected.shape[:2]) >= LEAST_SIDE
    return Picture(
        metrics=metrics,
        sharpness=_sharpness_ratio(metrics, actual, sharp),
        decision=ReferenceFrame(expected).decide(actual) if is_told else None,
        floor=picture_floor(expected, sharp, metrics.bound),
    )


def _sharpness_ratio(metrics: PictureMetrics, actual: Pixels, sharp: float) -> float | None:
    if not sharp:
        return None
    return sharpness(actual) / sharp if metrics.max_abs else 1.0
