"""Pictures: the decoded frames of a session, how far they are from another session's, and what an exchange mends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import msgspec
from torch import Tensor, nn

from waypoint_parity.harness.compare.pictures import Pixels, frame_metrics
from waypoint_parity.harness.compare.sharpness import sharpness
from waypoint_parity.harness.explain.blame.result import Share
from waypoint_parity.harness.run.adapter import Adapter

# A difference counts from this many times the noise on: below, a share of it would be a share of noise.
COUNTS = 3.0


class PictureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far the frames of one session are from another's: the final one, and the mean over all.

    `mean_abs` and `all_frames` in levels of 255; `ssim` is 1 - SSIM; `sharpness` the relative difference.
    """

    mean_abs: float
    ssim: float
    sharpness: float
    all_frames: float


@contextmanager
def pictures_of(adapter: Adapter) -> Iterator[list[Pixels]]:
    """The frames [height,width,3] uint8 that `adapter` decodes while the context is open, as it goes on with them."""
    pictures: list[Pixels] = []
    site = adapter.sites().get("frame")
    if site is None:
        yield pictures
        return

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        official: Tensor = output if site.layout is None else site.layout(output)
        pictures.append(official.detach().cpu().numpy().copy())

    handle = site.module.register_forward_hook(keep)
    try:
        yield pictures
    finally:
        handle.remove()


def difference(actual: Sequence[Pixels], expected: Sequence[Pixels]) -> PictureDifference | None:
    """How far the frames `actual` are from `expected`; None where either has none, or not as many."""
    if not expected or len(actual) != len(expected):
        return None
    frames = [frame_metrics(frame, *pair) for frame, pair in enumerate(zip(actual, expected, strict=True))]
    sharp = sharpness(expected[-1])
    return PictureDifference(
        mean_abs=frames[-1].mean_abs,
        ssim=1 - frames[-1].ssim,
        sharpness=abs(sharpness(actual[-1]) - sharp) / sharp if sharp else 0.0,
        all_frames=fmean(frame.mean_abs for frame in frames),
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
_LEAST = {"mean_abs": 2e-3, "ssim": 1e-6, "sharpness": 1e-5, "all_frames": 2e-3}
