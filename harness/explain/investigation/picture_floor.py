"""The floor of a picture: what an error that is still taken for noise does to the reference's."""

import math

import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.pictures import Pixels, picture_metrics, rms
from waypoint_parity.harness.compare.sharpness import sharpness
from waypoint_parity.harness.explain.investigation.result import PictureFloor
from waypoint_parity.harness.record.records import PictureAt

_SEED = 20260121


def picture_floor(expected: Pixels, sharp: float, bound: float | None) -> PictureFloor | None:
    """Measure an error of relative L2 `bound`, spread evenly over the reference's picture `expected` [H,W,3].

    `sharp` is the sharpness of `expected`. None without a bound, and where it allows for no error.
    """
    size = rms(expected) * bound if bound is not None else 0.0
    if not size or not math.isfinite(size):
        return None
    noisy = _with_noise(expected, size)
    metrics = picture_metrics(PictureAt(0), noisy, expected, precision=np.float32)
    if metrics.psnr is None:
        return None
    return PictureFloor(
        ssim=metrics.ssim,
        mean_abs=metrics.mean_abs,
        psnr=metrics.psnr,
        sharpness=sharpness(noisy) / sharp if sharp else 1.0,
    )


def _with_noise(expected: Pixels, size: float) -> Pixels:
    """`expected` with an error of `size` levels, root mean square.

    Noise far below a level turns a few values by a whole one, and leaves the others.
    """
    draw = np.random.default_rng(_SEED)
    if size < 1:
        error: npt.NDArray[np.int16] = np.zeros(expected.size, np.int16)
        # At least one: that is the least that two pictures can differ by.
        turned = draw.choice(expected.size, max(1, round(size**2 * expected.size)), replace=False, shuffle=False)
        error[turned] = 1 - 2 * draw.integers(2, size=len(turned), dtype=np.int16)
        error = error.reshape(expected.shape)
    else:
        # Rounding to whole levels adds a variance of 1/12.
        spread = math.sqrt(size**2 - 1 / 12)
        error = np.rint(spread * draw.standard_normal(expected.shape, np.float32)).astype(np.int16)
    noisy = expected + error
    # At black and white only the other direction is left; to cut the error off would make it smaller.
    outside = (noisy < 0) | (noisy > 255)
    noisy[outside] -= 2 * error[outside]
    return noisy.clip(0, 255).astype(np.uint8)
