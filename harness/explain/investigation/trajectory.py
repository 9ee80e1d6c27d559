"""The sigma trajectory: how much fine detail the latent has after every step, of both sides."""

import math
from pathlib import Path

import torch
from torch import Tensor

from waypoint_parity.harness.explain.investigation.latents import is_latent, read_latents
from waypoint_parity.harness.explain.investigation.result import LatentStep
from waypoint_parity.harness.record.records import Manifest, read_manifest
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import At, Key, Order

# Cycles per latent pixel: half of the Nyquist frequency, which is 0.5.
HIGH = 0.25


def trajectory(reference: Path, candidate: Path, family: Family, order: Order) -> list[LatentStep]:
    """Every latent of two dumps, in `order`; none where neither keeps its latents, or where those are no pictures.

    Raises UserError for a folder that is no finished dump and for a broken file.
    """
    latents = [
        {key: latent for key, latent in read_latents(dump, family).items() if latent.ndim > 1}
        for dump in (reference, candidate)
    ]
    keys = sorted(latents[0].keys() | latents[1].keys(), key=lambda key: (order.rank(key.at), key))
    if not keys:
        return []
    schedule = _Schedule(read_manifest(reference), family)
    shares = [{key: high_share(latent) for key, latent in side.items()} for side in latents]
    return [
        LatentStep(
            unit=key.unit,
            phase=key.phase,
            step=key.step,
            site=key.site,
            branch=key.branch,
            sigma=schedule.after(key.at),
            reference=shares[0].get(key),
            candidate=shares[1].get(key),
        )
        for key in keys
    ]


class _Schedule:
    """The noise levels of a session, of which each step with a latent leads to the next."""

    def __init__(self, manifest: Manifest, family: Family) -> None:
        self._sigmas = manifest.sigmas
        kinds = manifest.passes or []
        self._steps = list(dict.fromkeys(
            (kind.phase, kind.step)
            for kind in kinds
            if any(is_latent(Key(0, kind.phase, kind.step, site.partition("@")[0]), family) for site in kind.sites)
        ))  # fmt: skip

    def after(self, at: At) -> float | None:
        """The level that a step leads to; None where there is no schedule."""
        if not self._sigmas:
            return None
        known = (at.phase, at.step) in self._steps
        step = self._steps.index((at.phase, at.step)) if known else at.step
        # A step beyond the schedule leads where the last one did: to 0.
        return self._sigmas[min(step + 1, len(self._sigmas) - 1)]


def high_share(latent: Tensor) -> float | None:
    """The share of the energy of `latent` [...,H,W] in its high band; None of one that is empty, 0 or not finite.

    The band: every coefficient of the 2-D Fourier transform, taken channel by channel and frame by frame, whose radial
    frequency is above HIGH cycles per pixel, half of Nyquist; the corners, up to sqrt(2) of Nyquist, included. The
    energy is that of all coefficients, the mean's among them. White noise has about 0.8 of it there, what is smooth
    next to nothing.
    """
    if latent.dim() < 2 or not latent.numel():
        return None
    energy = torch.fft.fft2(latent.double()).abs().square().reshape(-1, *latent.shape[-2:]).sum(0)
    down, right = (torch.fft.fftfreq(length, dtype=torch.float64) for length in energy.shape)
    high = torch.hypot(down[:, None], right) > HIGH
    whole = float(energy.sum())
    return float(energy[high].sum()) / whole if whole and math.isfinite(whole) else None
