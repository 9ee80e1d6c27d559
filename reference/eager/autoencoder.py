"""DCAE: the deep-compression autoencoder between pixels and latents."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig
from waypoint_parity.reference.eager.autoencoder_layers import (
    DecoderBlock,
    DecoderResidual,
    EncoderBlock,
    EncoderResidual,
    FromLatent,
    FromPixels,
    ToLatent,
    ToPixels,
    to_uint8,
)
from waypoint_parity.reference.eager.convolution import Convolution


def stage_widths(first: int, most: int, stages: int) -> list[int]:
    """Channel widths from the shallowest stage to the deepest, `stages` + 1 of them: doubling, up to `most`."""
    return [min(first * 2**stage, most) for stage in range(stages + 1)]


class Encoder(nn.Module):
    """Image -> latent."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        depths = config.encoder_blocks_per_stage
        widths = stage_widths(config.encoder_ch_0, config.encoder_ch_max, len(depths))
        stages = list(pairwise(widths))
        self.conv_in = FromPixels(config.channels, widths[0])
        self.blocks = nn.ModuleList(EncoderBlock(c, n, depth) for (c, n), depth in zip(stages, depths, strict=True))
        self.residuals = nn.ModuleList(EncoderResidual(c, n) for c, n in stages)
        self.conv_out = ToLatent(widths[-1], config.latent_channels)
        # Stored, and unused at inference: the latent is the mean.
        self.conv_out_logvar = None if config.skip_logvar else Convolution(widths[-1], 1, 3)

    def forward(self, image: Tensor) -> Tensor:
        """`image` [360,640,3] uint8 -> latent [1,C,H,W] fp32."""
        pixels = image.permute(2, 0, 1).unsqueeze(0).float() / 255 * 2 - 1
        x = self.conv_in(pixels)
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + residual(x)
        latent: Tensor = self.conv_out(x)
        return latent


class Decoder(nn.Module):
    """Latent -> image."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        depths = config.decoder_blocks_per_stage
        widths = stage_widths(config.decoder_ch_0, config.decoder_ch_max, len(depths))
        stages = list(pairwise(reversed(widths)))  # from deep to shallow
        self.conv_in = FromLatent(config.latent_channels, config.decoder_ch_max)
        self.blocks = nn.ModuleList(DecoderBlock(n, c, depth) for (n, c), depth in zip(stages, depths, strict=True))
        self.residuals = nn.ModuleList(DecoderResidual(n, c) for n, c in stages)
        self.conv_out = ToPixels(config.decoder_ch_0, config.channels, config.sample_size)

    def forward(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,H,W] -> image [360,640,3] uint8."""
        x = self.conv_in(latent.float())
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + residual(x)
        return to_uint8(self.conv_out(x))


class Autoencoder(nn.Module):
    """Encoder and decoder. Submodules bear the names of the checkpoint's keys."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)


def load_autoencoder(config: AutoencoderConfig, weights: Mapping[str, Tensor], *, device: torch.device) -> Autoencoder:
    """The autoencoder of `config` with `weights`, for inference, on `device`.

    Always fp32, whatever the world model's dtype: golden/bf16 holds the decoder's sites in fp32. From its latents they
    are met within 3e-7 by fp32 weights, and missed by 2.6e-3 by weights rounded to bf16.
    """
    with torch.device("meta"):  # without memory or initial values: every weight comes from the checkpoint
        autoencoder = Autoencoder(config)
    autoencoder.load_state_dict(weights, strict=True, assign=True)
    return autoencoder.to(device=device, dtype=torch.float32).requires_grad_(False)
