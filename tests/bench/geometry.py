"""The sizes that are measured: the golden checkpoint, and the real widths of both generations with random weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.weights import Shape
from waypoint_parity.harness.families.waypoint import inventory
from waypoint_parity.harness.families.waypoint.config import (
    AutoencoderConfig,
    TaehvConfig,
    TransformerConfig,
    WaypointGeometry,
    taehv_sizes,
)
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "base"
PROMPT_TOKENS = 512

REAL_WIDTH = TransformerConfig(
    d_model=2560,
    n_heads=40,
    n_kv_heads=20,
    n_layers=4,  # of 22: one global and three local layers, two of them with prompt and control
    mlp_ratio=5,
    channels=16,
    height=16,
    width=16,
    patch=(2, 2),
    tokens_per_frame=256,
    n_frames=4096,
    local_window=16,
    global_window=128,
    global_attn_period=4,
    global_pinned_dilation=8,
    gated_attn=True,
    n_buttons=256,
    ctrl_conditioning="mlp_fusion",
    ctrl_conditioning_period=3,
    prompt_conditioning="cross_attention",
    prompt_conditioning_period=3,
    prompt_embedding_dim=2048,
    noise_conditioning="wan",
    scheduler_sigmas=(1.0, 0.8609585762023926, 0.729332447052002, 0.3205108940601349, 0.0),
    base_fps=60,
)
REAL_AUTOENCODER = AutoencoderConfig(
    channels=3,
    latent_channels=16,
    encoder_ch_0=64,
    encoder_ch_max=256,
    encoder_blocks_per_stage=(1, 1, 1, 1),
    decoder_ch_0=128,
    decoder_ch_max=1024,
    decoder_blocks_per_stage=(1, 1, 1, 1),
)
WAYPOINT_15 = TransformerConfig(
    model_type="waypoint-1.5",
    d_model=2048,
    n_heads=32,
    n_kv_heads=16,
    n_layers=4,  # of 24: one global and three local layers, two of them with control
    mlp_ratio=4,
    channels=32,
    height=16,
    width=32,
    patch=(2, 2),
    tokens_per_frame=512,
    n_frames=512,
    local_window=16,
    global_window=128,
    global_attn_period=4,
    global_attn_offset=-1,
    global_pinned_dilation=8,
    value_residual=True,
    n_buttons=256,
    ctrl_conditioning=True,
    ctrl_conditioning_period=3,
    prompt_conditioning=None,
    noise_conditioning="wan",
    scheduler_sigmas=(1.0, 0.9, 0.75, 0.3, 0.0),
    base_fps=15,
    inference_fps=60,
    temporal_compression=4,
    taehv_ae=True,
)
TAEHV = TaehvConfig(latent_channels=32, encoder_width=64, decoder_widths=(256, 128, 64, 64), **taehv_sizes(WAYPOINT_15))
GEOMETRIES = {
    "real-width": WaypointGeometry(REAL_WIDTH, REAL_AUTOENCODER),
    "waypoint-1.5": WaypointGeometry(WAYPOINT_15, TAEHV),
}


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """Weights drawn in memory; every block is given the same six conditioning matrices, as in a real checkpoint."""

    def weights(self, component: str) -> dict[str, Tensor]:
        if component == "vae":
            return dict(draw(inventory.autoencoder_keys(self.geometry.autoencoder)))
        return dict(self._transformer)

    @cached_property
    def _transformer(self) -> dict[str, Tensor]:
        """Drawn once: two implementations and two dtypes are loaded from it."""
        keys = inventory.transformer_keys(self.geometry.transformer)
        shared = {key: shape for key, shape in keys.items() if ".cond_proj." not in key or ".blocks.0." in key}
        drawn = dict(draw(shared))
        return {key: drawn[key if key in drawn else _of_block_0(key)] for key in keys}

    @property
    def digest(self) -> str:
        return "random"


def _of_block_0(key: str) -> str:
    return "transformer.blocks.0." + key.split(".", 3)[3]


def draw(shapes: dict[str, Shape]) -> Iterator[tuple[str, Tensor]]:
    """Weights that keep the variance of what they multiply; magnitudes of weight normalisation are 1."""
    generator = torch.Generator().manual_seed(0)
    for key, shape in shapes.items():
        if key.endswith(".original0"):
            yield key, torch.ones(shape)
        else:
            yield key, torch.empty(shape).normal_(std=prod(shape[1:]) ** -0.5, generator=generator)


def checkpoint_of(size: str) -> Checkpoint:
    """The checkpoint called `size`: tiny, real-width or waypoint-1.5."""
    if size == "tiny":
        return open_checkpoint(GOLDEN)
    return RandomCheckpoint("random", "waypoint", GEOMETRIES[size], {})


def inputs_of(config: TransformerConfig) -> tuple[Prompt | None, Tensor, Controls]:
    """Random inputs of a session: its prompt, where the model takes one, and noise and controls for every frame."""
    generator = torch.Generator().manual_seed(1)
    prompt = None
    if config.prompt_conditioning:
        embedding = torch.randn(1, PROMPT_TOKENS, config.prompt_embedding_dim or 0, generator=generator)
        prompt = Prompt(embedding, torch.zeros(1, PROMPT_TOKENS, dtype=torch.bool))
    noise = torch.randn(1, 1, *config.latent_shape, generator=generator)
    return prompt, noise, Controls(torch.zeros(config.n_buttons), torch.ones(2), torch.zeros(1))
