"""Gain: how the reference amplifies a small error at one site on its way to the decoded picture."""

import math

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.family import Decoding
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Paced, keep_pace, order_of, passes
from waypoint_parity.harness.run.taps import Observation, Taps
from waypoint_parity.harness.run.worker import exact_arithmetic


@exact_arithmetic()
def gain(reference: Adapter, spare: Adapter, checkpoint: Checkpoint, scenario: Scenario, site: str) -> float | None:
    """The relative change of the final picture for a relative change of 1 at `site`, by linear extrapolation.

    The change is Gaussian noise in every pass; relative to the site's root mean square it is the square root of the
    dtype's epsilon, the step of a finite difference that lies farthest from rounding on one side and from curvature on
    the other. `spare` is `reference` once more. None for a site that holds no floating-point values, and where no
    decoded picture is shown.
    """
    shown_at = _shown_at(checkpoint.family.decoding, reference)
    if shown_at is None or site not in spare.sites():
        return None
    change = _Change()
    exact, changed = _Last(), _Last()
    watch = Taps({shown_at: reference.sites()[shown_at]}, exact)
    noisy = Taps({site: spare.sites()[site]}, change)
    # The picture is to be seen as the change leaves it, also where that is where it is made.
    with watch, noisy, Taps({shown_at: spare.sites()[shown_at]}, changed):
        sessions = [Paced(passes(adapter, scenario, checkpoint, None)) for adapter in (reference, spare)]
        keep_pace(sessions, order_of(scenario, checkpoint), _never)
    if change.size is None:
        return None
    found = tensor_error(changed.value, exact.value).rel_l2 / change.size
    # Of some inputs any noise leaves no picture at all.
    return found if math.isfinite(found) else None


def _shown_at(decoding: Decoding | None, reference: Adapter) -> str | None:
    """What is decoded before it is rounded to levels; where that is not shown, the picture: a coarse figure."""
    names = () if decoding is None else (*decoding.outputs, decoding.picture)
    return next((name for name in names if name in reference.sites()), None)


class _Change:
    """Puts noise on every value of a site; `size` is its root mean square in units of the value's, once it was made."""

    def __init__(self) -> None:
        self.size: float | None = None
        self._draw = torch.Generator().manual_seed(0)

    def __call__(self, seen: Observation) -> Tensor | None:
        value = seen.tensor
        if not value.is_floating_point():
            return None
        self.size = math.sqrt(torch.finfo(value.dtype).eps)
        noise = torch.randn(value.shape, generator=self._draw).to(value.device)
        level = value.float().square().mean().sqrt()
        return (value.float() + self.size * level * noise).to(value.dtype)


class _Last:
    """Keeps the last value that it is shown."""

    value: Tensor

    def __call__(self, seen: Observation) -> None:
        self.value = seen.tensor.detach().clone()


def _never(at: object, those: list[int]) -> None:
    raise AssertionError(f"one implementation ran a step that it did not run the other time: {at}")
