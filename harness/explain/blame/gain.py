"""Gain: how the reference amplifies a small error at one site on its way to the decoded frame."""

import math

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.explain.blame.pace import Paced, keep_pace
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import exact_arithmetic, passes
from waypoint_parity.harness.run.taps import Patcher

# Before it is rounded to levels. Of an implementation that does not show that, the frame itself: a coarse figure.
_SHOWN_AT = ("decoder.conv_out", "frame")


@exact_arithmetic()
def gain(reference: Adapter, spare: Adapter, checkpoint: Checkpoint, scenario: Scenario, site: str) -> float | None:
    """The relative change of the final frame for a relative change of 1 at `site`, by linear extrapolation.

    The change is Gaussian noise in every pass; relative to the site's root mean square it is the square root of the
    dtype's epsilon, the step of a finite difference that lies farthest from rounding on one side and from curvature on
    the other. `spare` is `reference` once more. None for a site that holds no floating-point values, and where no
    decoded frame is shown.
    """
    shown_at = next((name for name in _SHOWN_AT if name in reference.sites()), None)
    if shown_at is None or site not in spare.sites():
        return None
    change = _Change()
    exact, changed = _Last(), _Last()
    watch = Patcher({shown_at: reference.sites()[shown_at]}, exact)
    # The frame is to be seen as the change leaves it, also where that is where it is made.
    with watch, Patcher({site: spare.sites()[site]}, change), Patcher({shown_at: spare.sites()[shown_at]}, changed):
        leading = Paced(passes(reference, scenario, checkpoint.transformer, watch))
        keep_pace(leading, Paced(passes(spare, scenario, checkpoint.transformer, None)), _never)
    if change.size is None:
        return None
    return tensor_error(changed.value, exact.value).rel_l2 / change.size


class _Change:
    """Puts noise on every value of a site; `size` is its root mean square in units of the value's, once it was made."""

    def __init__(self) -> None:
        self.size: float | None = None
        self._draw = torch.Generator().manual_seed(0)

    def __call__(self, key: Key, value: Tensor) -> Tensor | None:
        if not value.is_floating_point():
            return None
        self.size = math.sqrt(torch.finfo(value.dtype).eps)
        noise = torch.randn(value.shape, generator=self._draw).to(value.device)
        level = value.float().square().mean().sqrt()
        return (value.float() + self.size * level * noise).to(value.dtype)


class _Last:
    """Keeps the last value that it is shown."""

    value: Tensor

    def __call__(self, key: Key, value: Tensor) -> None:
        self.value = value.detach().clone()


def _never(at: object, side: str) -> None:
    raise AssertionError(f"one implementation ran a pass that it did not run the other time: {at}")
