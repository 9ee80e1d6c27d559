"""Kinds of fault that ports of Wan have, by the part that they show in: text beside a measurement."""

from collections.abc import Collection
from typing import Any

from waypoint_parity.harness.families.wan.sites import BRANCHES, DECODE
from waypoint_parity.harness.run.family import FaultKind
from waypoint_parity.harness.run.keys import Key

KINDS = (
    FaultKind(
        ("input.noise",),
        "noise of another shape, generator or scale",
        "one draw of [C,T,h,w] in fp32 by one generator, not scaled",
    ),
    FaultKind(
        ("input.prompt",),
        "embeddings of padding not zeroed",
        "that rows behind the prompt's tokens are 0 before the text embedding: they are attended, no mask hides them",
    ),
    FaultKind(
        ("input.prompt",),
        "another negative prompt: empty instead of the default, or with another end",
        "which text the branch without the prompt is given",
        extent=("uncond only",),
    ),
    FaultKind(
        ("input.schedule",),
        "flow shift applied twice, or to the end points too",
        "that the scheduler is built with shift 1 and shifted once, when the timesteps are set",
    ),
    FaultKind(
        ("input.schedule",),
        "another spacing of the noise levels",
        "that the unshifted levels go from 0.999 to 0 in equal distances, the last one left out",
    ),
    FaultKind(
        ("time embedding",),
        "phases computed in fp32, where the official code has fp64",
        "the dtype of frequencies and phases: they reach 1000 radians, which costs 6e-6 in fp32",
        extent=("rounding-sized",),
    ),
    FaultKind(
        ("time embedding",),
        "timestep rounded to bf16 before the sinusoid",
        "the dtype of the timestep: bf16 holds multiples of 4 only above 512",
        extent=("right at multiples of 4",),
    ),
    FaultKind(
        ("time embedding",),
        "sine and cosine halves exchanged",
        "the order of the features: all cosines, then all sines",
        extent=("every step",),
    ),
    FaultKind(
        ("norm",),
        "norm2 and norm3 exchanged in the conversion",
        "that the norm with weights stands before the cross-attention",
        norm="changed",
    ),
    FaultKind(
        ("query and key norm", "cross-attention"),
        "queries and keys normed head by head",
        "that the mean square is taken over all heads",
    ),
    FaultKind(
        ("self-attention",),
        "axes of the rotation exchanged, or pairs laid out otherwise",
        "frequencies in the order time, height, width; consecutive pairs; width of each axis",
    ),
    FaultKind(
        ("projections",),
        "modulation slots exchanged, or scale without 1",
        "the order shift, scale, gate of the attention, then of the feed-forward; x * (1 + scale) + shift",
    ),
    FaultKind(
        ("feed-forward",),
        "exact GELU instead of its tanh form",
        "the activation of the feed-forward",
        norm="kept",
    ),
    FaultKind(
        ("guidance",),
        "guidance on the wrong branch, or with another scale",
        "uncond + scale * (cond - uncond), and which call is which",
    ),
    FaultKind(
        ("sampler",),
        "corrector or history of the multistep solver",
        "UniPC of order 2, bh2, with its corrector: what it keeps of the step before",
        onset=("later step",),
    ),
    FaultKind(
        ("sampler",),
        "another solver",
        "UniPC of order 2, bh2; the first step is of order 1",
        onset=("first step",),
    ),
    FaultKind(
        ("latent scale",),
        "mean or deviation of the latents left out",
        "latent * std + mean, channel by channel, before the decoder",
    ),
    FaultKind(
        ("decoder",),
        "a feature cache lost, or filled a chunk early",
        "what each causal convolution keeps of the latents before: two pictures, in the order of the calls",
        onset=("later latent",),
    ),
    FaultKind(
        ("decoder",),
        "another layer of the decoder",
        "weights, upsampling in time of all latents but the first, nearest-exact in space",
        onset=("first latent",),
    ),
)


def words(first: Key, faults: Collection[Key], timesteps: Any) -> list[str]:
    """Where a fault begins, and which steps and branches have it."""
    if first.phase == DECODE:
        return ["later latent" if first.step else "first latent"]
    branches = {key.branch for key in faults if key.branch}
    found = ["later step" if first.step else "first step"]
    found += [f"{branch} only" for branch in BRANCHES if branches == {branch}]
    steps = {key.step for key in faults}
    if timesteps is not None:
        fours = {step for step, timestep in enumerate(timesteps.tolist()) if timestep % 4 == 0}
        every = set(range(len(timesteps)))
        found += ["right at multiples of 4"] if fours and steps == every - fours else []
        found += ["every step"] if steps == every else []
    return found
