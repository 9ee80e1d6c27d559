"""Pictures: how far the decoded pictures of a session are from another session's, and what an exchange mends."""

from collections.abc import Sequence
from statistics import fmean

import msgspec

from waypoint_parity.harness.compare.pictures import Pixels, picture_metrics
from waypoint_parity.harness.compare.sharpness import sharpness
from waypoint_parity.harness.explain.blame.result import Share
from waypoint_parity.harness.record.records import PictureAt

# A difference counts from this many times the noise on: below, a share of it would be a share of noise.
COUNTS = 3.0


class PictureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far the pictures of one session are from another's: the final one, and the mean over all.

    `mean_abs` and `all_pictures` in levels of 255; `ssim` is 1 - SSIM; `sharpness` the relative difference.
    """

    mean_abs: float
    ssim: float
    sharpness: float
    all_pictures: float


def difference(actual: Sequence[Pixels], expected: Sequence[Pixels]) -> PictureDifference | None:
    """How far the pictures `actual` are from `expected`; None where either has none, not as many, or of other sizes."""
    if not expected or [picture.shape for picture in actual] != [picture.shape for picture in expected]:
        return None
    pairs = zip(actual, expected, strict=True)
    found = [picture_metrics(PictureAt(place), *pair) for place, pair in enumerate(pairs)]
    sharp = sharpness(expected[-1])
    return PictureDifference(
        mean_abs=found[-1].mean_abs,
        ssim=1 - found[-1].ssim,
        sharpness=abs(sharpness(actual[-1]) - sharp) / sharp if sharp else 0.0,
        all_pictures=fmean(metrics.mean_abs for metrics in found),
    )


def share(
    before: PictureDifference | None, after: PictureDifference | None, noise: PictureDifference | None
) -> Share | None:
    """How much of the difference `before` an exchange is gone `after` it, the noise not counted."""
    if before is None or after is None:
        return None
    return Share(**{name: _gone(name, before, after, noise) for name in PictureDifference.__struct_fields__})


def _gone(
    name: str, before: PictureDifference, after: PictureDifference, noise: PictureDifference | None
) -> float | None:
    level = 0.0 if noise is None else getattr(noise, name)
    had, has = getattr(before, name), getattr(after, name)
    return 1 - max(0.0, has - level) / (had - level) if had > COUNTS * max(level, _LEAST[name]) else None


# Of fp32, whose noise may happen to be nothing: a level on one pixel in five hundred.
_LEAST = {"mean_abs": 2e-3, "ssim": 1e-6, "sharpness": 1e-5, "all_pictures": 2e-3}
