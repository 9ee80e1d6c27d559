"""Gain: how the reference amplifies a small error at one site on its way to the decoded frame."""

import torch
from torch import Tensor

from harness.adapter import Adapter
from harness.blame.pace import Paced, keep_pace
from harness.checkpoint import Checkpoint
from harness.compare_tensors import tensor_error
from harness.keys import Key
from harness.patcher import Patcher
from harness.scenario import Scenario
from harness.session import exact_arithmetic, passes

# Relative to the site's root mean square: far above rounding in fp32, and small enough for a linear response.
PERTURBATION = 1e-3
# Before it is rounded to levels; or the frame itself, of an implementation that does not show that.
_SHOWN_AT = ("decoder.conv_out", "frame")


@exact_arithmetic()
def gain(reference: Adapter, spare: Adapter, checkpoint: Checkpoint, scenario: Scenario, site: str) -> float | None:
    """The relative change of the final frame for a relative change of 1 at `site`, by linear extrapolation.

    The change is Gaussian noise in every pass, PERTURBATION times the site's root mean square. `spare` is `reference`
    once more. None for a site that holds no floating-point values, and where no decoded frame is shown.
    """
    draw = torch.Generator().manual_seed(0)
    shown_at = next((name for name in _SHOWN_AT if name in reference.sites()), None)
    if shown_at is None or site not in spare.sites():
        return None
    frames: dict[str, Tensor] = {}
    reached = False

    def perturb(key: Key, value: Tensor) -> Tensor | None:
        nonlocal reached
        if key.site == shown_at:
            frames["perturbed"] = value.detach().clone()
        if key.site != site or not value.is_floating_point():
            return None
        reached = True
        noise = torch.randn(value.shape, generator=draw).to(value.device)
        level = value.float().square().mean().sqrt()
        return (value.float() + PERTURBATION * level * noise).to(value.dtype)

    def keep(key: Key, value: Tensor) -> None:
        frames["exact"] = value.detach().clone()

    exact = Patcher({shown_at: reference.sites()[shown_at]}, keep)
    perturbed = Patcher({name: spare.sites()[name] for name in (site, shown_at)}, perturb)
    with exact, perturbed:
        leading = Paced(passes(reference, scenario, checkpoint.transformer, exact))
        keep_pace(leading, Paced(passes(spare, scenario, checkpoint.transformer, perturbed)), _never)
    return tensor_error(frames["perturbed"], frames["exact"]).rel_l2 / PERTURBATION if reached else None


def _never(at: object, side: str) -> None:
    raise AssertionError(f"one implementation ran a pass that it did not run the other time: {at}")
