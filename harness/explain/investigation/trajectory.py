"""The sigma trajectory: how much fine detail the latent has after every denoise step, of both sides."""

import math
from pathlib import Path

import torch
from torch import Tensor

from waypoint_parity.harness.explain.investigation.latents import read_latents
from waypoint_parity.harness.explain.investigation.result import LatentStep
from waypoint_parity.harness.record.records import read_manifest

# Cycles per latent pixel: half of the Nyquist frequency, which is 0.5.
HIGH = 0.25


def trajectory(reference: Path, candidate: Path) -> list[LatentStep]:
    """Every denoise step of two dumps, in order; none where neither keeps its latents.

    Raises UserError for a folder that is no finished dump and for a broken file.
    """
    latents = read_latents(reference), read_latents(candidate)
    steps = sorted(latents[0].keys() | latents[1].keys())
    if not steps:
        return []
    sigmas = read_manifest(reference).sigmas
    shares = [{at: high_share(latent) for at, latent in side.items()} for side in latents]
    return [
        LatentStep(
            frame=frame,
            step=step,
            # A step beyond the schedule leads where the last one did: to 0.
            sigma=sigmas[min(step + 1, len(sigmas) - 1)],
            reference=shares[0].get((frame, step)),
            candidate=shares[1].get((frame, step)),
        )
        for frame, step in steps
    ]


def high_share(latent: Tensor) -> float | None:
    """The share of the energy of `latent` [...,H,W] in its high band; None of one that is 0 or not finite.

    The band: every coefficient of the 2-D Fourier transform, taken channel by channel, whose radial frequency is above
    HIGH cycles per pixel, half of Nyquist; the corners, up to sqrt(2) of Nyquist, included. The energy is that of all
    coefficients, the mean's among them. White noise has about 0.8 of it there, what is smooth next to nothing.
    """
    energy = torch.fft.fft2(latent.double()).abs().square().flatten(end_dim=-3).sum(0)
    down, right = (torch.fft.fftfreq(length, dtype=torch.float64) for length in energy.shape)
    high = torch.hypot(down[:, None], right) > HIGH
    whole = float(energy.sum())
    return float(energy[high].sum()) / whole if whole and math.isfinite(whole) else None
