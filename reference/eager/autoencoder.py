"""DCAE: the deep-compression autoencoder between pixels and latents, from its convolution up to its two halves.

Every resize is bicubic, without antialiasing, corners not aligned. Widths: c of the shallower side, n of the deeper.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, pixel_shuffle, pixel_unshuffle, silu

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig

SQUARE = 512


class NormalisedWeight(nn.Module):
    """A convolution's weight, stored as magnitude and direction (Salimans & Kingma 2016, equation 2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.empty(outputs, 1, 1, 1))
        self.original1 = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))

    def forward(self) -> Tensor:
        """The weight, [out,in,k,k]: direction * magnitude / ||direction||, the norm taken per output channel."""
        magnitude, direction = self.original0, self.original1
        return direction * magnitude / direction.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


class Convolution(nn.Module):
    """A weight-normalised convolution that keeps height and width; odd kernel, zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.padding = kernel // 2
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.parametrizations = nn.ModuleDict({"weight": NormalisedWeight(inputs // groups, outputs, kernel)})

    def forward(self, x: Tensor) -> Tensor:
        """[1,in,H,W] -> [1,out,H,W]."""
        weight = self.parametrizations["weight"]()
        return conv2d(x, weight, self.bias, padding=self.padding, groups=self.groups)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """[1,channels,H,W] -> [1,channels,height,width]."""
    return interpolate(x, size=(height, width), mode="bicubic", align_corners=False, antialias=False)


class ResBlock(nn.Module):
    """An inverted bottleneck: widen, mix within groups of 16, narrow, add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.conv1 = Convolution(width, hidden, 1)
        self.conv2 = Convolution(hidden, hidden, 3, groups=max(1, hidden // 16))
        self.conv3 = Convolution(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,H,W] -> [1,c,H,W]."""
        y = leaky_relu(self.conv1(x), 0.01)
        y = leaky_relu(self.conv2(y), 0.01)
        out: Tensor = x + self.conv3(y)
        return out


class Down(nn.Module):
    """Halve the sides, then project the channels."""

    def __init__(self, width: int, deeper: int) -> None:
        super().__init__()
        self.proj = Convolution(width, deeper, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,H,W] -> [1,n,H/2,W/2]."""
        y: Tensor = self.proj(resize(x, x.shape[-2] // 2, x.shape[-1] // 2))
        return y


class Up(nn.Module):
    """Project the channels (where their number changes), then double the sides."""

    def __init__(self, deeper: int, width: int) -> None:
        super().__init__()
        self.proj = Convolution(deeper, width, 1, bias=False) if deeper != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[1,n,H,W] -> [1,c,2H,2W]."""
        return resize(self.proj(x), x.shape[-2] * 2, x.shape[-1] * 2)


class EncoderBlock(nn.Module):
    """The main path of an encoder stage."""

    def __init__(self, width: int, deeper: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResBlock(width) for _ in range(depth)))
        self.down = Down(width, deeper)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,H,W] -> [1,n,H/2,W/2]."""
        y: Tensor = self.down(self.blocks(x))
        return y


class EncoderResidual(nn.Module):
    """The shortcut of an encoder stage: space to channels."""

    def __init__(self, width: int, deeper: int) -> None:
        super().__init__()
        self.proj = Convolution(width, deeper // 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,H,W] -> [1,n,H/2,W/2]."""
        return pixel_unshuffle(self.proj(x), 2)


class DecoderBlock(nn.Module):
    """The main path of a decoder stage."""

    def __init__(self, deeper: int, width: int, depth: int) -> None:
        super().__init__()
        self.up = Up(deeper, width)
        self.blocks = nn.Sequential(*(ResBlock(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """[1,n,H,W] -> [1,c,2H,2W]."""
        y: Tensor = self.blocks(self.up(x))
        return y


class DecoderResidual(nn.Module):
    """The shortcut of a decoder stage: channels to space."""

    def __init__(self, deeper: int, width: int) -> None:
        super().__init__()
        self.proj = Convolution(deeper, 4 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1,n,H,W] -> [1,c,2H,2W]."""
        return pixel_shuffle(self.proj(x), 2)


class FromPixels(nn.Module):
    """Frame -> square features."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = Convolution(channels, width, 3)

    def forward(self, image: Tensor) -> Tensor:
        """[1,3,360,640] in [-1,1] -> [1,c,512,512]."""
        y: Tensor = self.proj(resize(image, SQUARE, SQUARE))
        return y


class ToLatent(nn.Module):
    """Deepest features -> latent, with the channel mean as shortcut."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.proj = Convolution(width, latent_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,H,W] -> [1,C,H,W]. Channels are [group, latent]; sqrt(groups) undoes the mean's loss of variance."""
        groups = rearrange(x, "B (group C) H W -> group B C H W", C=self.latent_channels)
        shortcut = groups.mean(dim=0) * len(groups) ** 0.5
        latent: Tensor = self.proj(x) + shortcut
        return latent


class FromLatent(nn.Module):
    """Latent -> deepest features, with the repeated channels as shortcut."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.repeats = width // latent_channels
        self.proj = Convolution(latent_channels, width, 3)

    def forward(self, latent: Tensor) -> Tensor:
        """[1,C,H,W] -> [1,n,H,W]. Each channel is repeated `repeats` times in a row."""
        shortcut = latent.repeat_interleave(self.repeats, dim=1) / self.repeats**0.5
        x: Tensor = self.proj(latent) + shortcut
        return x


class ToPixels(nn.Module):
    """Square features -> frame. The resize comes after the convolution."""

    def __init__(self, width: int, channels: int, frame_size: tuple[int, int]) -> None:
        super().__init__()
        self.frame_size = frame_size
        self.proj = Convolution(width, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[1,c,512,512] -> [1,3,360,640], about [-1,1]."""
        return resize(self.proj(silu(x)), *self.frame_size)


def to_uint8(pixels: Tensor) -> Tensor:
    """[1,channels,360,640] about [-1,1] -> [360,640,3] uint8: the first three channels, clamped and rounded."""
    levels = (pixels[0, :3] / 2 + 0.5).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(1, 2, 0)


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
        # Checkpoints store it, and inference ignores it: the latent is the mean.
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
    """Encoder and decoder. Its submodules have the names of the checkpoint's keys."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def reset(self) -> None:
        """Nothing to do: it remembers no frame."""


def load_autoencoder(
    config: AutoencoderConfig,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """The autoencoder of `config` with `weights`, for inference, in `dtype` on `device`.

    Waypoint 1 computes it in fp32, whatever the world model's dtype: golden/bf16 holds the decoder's sites in fp32.
    From its latents, fp32 weights meet them within 3e-7, and weights rounded to bf16 miss them by 2.6e-3.
    """
    with torch.device("meta"):  # without memory or initial values: every weight comes from the checkpoint
        autoencoder = Autoencoder(config)
    autoencoder.load_state_dict(weights, strict=True, assign=True)
    return autoencoder.to(device=device, dtype=dtype).requires_grad_(False)
