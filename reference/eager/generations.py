"""What the two generations of Waypoint compute differently. All else is the same code, driven by the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager.autoencoder import Autoencoder, load_autoencoder
from waypoint_parity.reference.eager.math import cosines_and_sines, rotation_angles
from waypoint_parity.reference.eager.taehv import Taehv, load_taehv


def rotation_by_rounded_tables(config: TransformerConfig, clock: int, dtype: torch.dtype) -> Tensor:
    """Cosines, then sines, [2,1,1,T,D/2] fp32, after passing through `dtype`.

    As the tables of a model cast to bf16 do. Measured on golden/bf16, block 0, frame 0: bit-identical; 1.6e-3 with
    exact tables, 2.4e-3 with rounded frequencies, 2.2e-3 with rounded angles.
    """
    angles = rotation_angles(clock, config.height, config.width, config.head_dim)
    return cosines_and_sines(angles).to(dtype).float()


def rotation_by_rounded_frequencies(config: TransformerConfig, clock: int, dtype: torch.dtype) -> Tensor:
    """Cosines, then sines, [2,1,1,T,D/2] fp32, of frequencies that passed through `dtype`.

    The rounding of a frequency is multiplied by the clock, so phases drift as a session goes on.
    """
    angles = rotation_angles(
        clock,
        config.height,
        config.width,
        config.head_dim,
        band=config.rope_nyquist_frac,
        base=config.rope_theta,
        through=dtype,
    )
    return cosines_and_sines(angles)


def rotation_by_exact_frequencies(config: TransformerConfig, clock: int, dtype: torch.dtype) -> Tensor:
    """The same, of frequencies in fp32 whatever the model's dtype."""
    return rotation_by_rounded_frequencies(config, clock, torch.float32)


def step_in_its_dtype(x: Tensor, change: Tensor, velocity: Tensor) -> Tensor:
    """Euler: `x` and `velocity` [1,1,C,h*ph,w*pw], `change` of sigma [1,1] -> the next `x`."""
    return x + change * velocity


def step_in_fp32(x: Tensor, change: Tensor, velocity: Tensor) -> Tensor:
    """Euler, cast once at the end: `x` and `velocity` [1,1,C,h*ph,w*pw], `change` of sigma [1,1] -> the next `x`."""
    return (x.float() + change.float() * velocity.float()).to(x.dtype)


def as_it_is(scroll: Tensor) -> Tensor:
    """The scroll value itself."""
    return scroll


@dataclass(frozen=True)
class Generation:
    """The choices of a generation.

    sources: whose outputs it reproduces
    rotation: (config, rotation clock, the model's dtype) -> cosines and sines of every token
    scroll: scroll wheel -> what the control embedding takes
    step: the sampler
    load_autoencoder: config and weights -> autoencoder
    autoencoder_dtype: what the autoencoder computes in; None for the model's dtype
    decodes_seed: whether the latent of a seed image is decoded too, which a decoder that remembers will know
    ends: whether a session ends at n_frames
    exact_conditioner: whether the noise conditioner's weights and frequencies stay as they are in any dtype
    half_heads: whether each half of a conditioning head has a bias of its own
    claims: what else a claim of parity must name
    """

    sources: str
    rotation: Callable[[TransformerConfig, int, torch.dtype], Tensor]
    scroll: Callable[[Tensor], Tensor]
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    load_autoencoder: Callable[..., Autoencoder | Taehv]
    autoencoder_dtype: torch.dtype | None
    decodes_seed: bool
    ends: bool
    exact_conditioner: bool = False
    half_heads: bool = False
    claims: Mapping[str, str] = field(default_factory=dict)


WAYPOINT_1 = Generation(
    sources="world_engine 208c909",
    rotation=rotation_by_rounded_tables,
    scroll=torch.sign,
    step=step_in_its_dtype,
    load_autoencoder=load_autoencoder,
    autoencoder_dtype=torch.float32,
    decodes_seed=False,
    ends=True,
)
WAYPOINT_15 = Generation(
    sources="world_engine 1.5 (the stored files that fixtures/golden/README.md names), taehv 7dc60ec",
    rotation=rotation_by_rounded_frequencies,
    scroll=as_it_is,
    step=step_in_fp32,
    load_autoencoder=load_taehv,
    autoencoder_dtype=None,
    decodes_seed=True,
    ends=False,
    claims={
        "rope": "frequencies rounded through the model's dtype, then fp32",
        "noise conditioner": "weights and frequencies rounded through the model's dtype, then fp32",
        "sampler": "differences of the rounded sigmas, Euler step in fp32",
        "seed latent": "decoded, its pictures shown",
    },
)
# As reported of the package's form for diffusers, which could not be had: no recorded output vouches for it.
DIFFUSERS_FORM = replace(
    WAYPOINT_15,
    sources="world_engine 1.5 in its form for diffusers, as reported; never run here",
    rotation=rotation_by_exact_frequencies,
    step=step_in_its_dtype,
    exact_conditioner=True,
    half_heads=True,
    claims={
        "rope": "exact frequencies, fp32",
        "noise conditioner": "exact weights and frequencies, fp32",
        "conditioning heads": "each half with the bias that is published for it",
        "sampler": "differences of the rounded sigmas, Euler step in the model's dtype",
        "seed latent": "decoded, its pictures shown",
    },
)


def generation_of(config: TransformerConfig) -> Generation:
    """The generation that a config belongs to."""
    return WAYPOINT_15 if config.is_waypoint_15 else WAYPOINT_1
