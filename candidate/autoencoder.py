"""The DCAE: images [360,640,3] uint8 to latents and back."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.config import AutoencoderConfig

# The convolutions see a square picture, whatever the size of the image.
SQUARE = (512, 512)


def bicubic(x: Tensor, *, size: tuple[int, int] | None = None, scale: float | None = None) -> Tensor:
    """Resize x [1,c,H,W]: no antialiasing, corners not aligned."""
    return functional.interpolate(x, size=size, scale_factor=scale, mode="bicubic")


def stage_widths(first: int, most: int, stages: int) -> list[int]:
    """Channels before and after each stage, from the shallowest on: doubling, up to `most`."""
    return [min(first * 2**stage, most) for stage in range(stages + 1)]


class ResBlock(nn.Module):
    """A bottleneck turned inside out: 1x1 to twice the width, grouped 3x3, 1x1 back; plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.conv1 = nn.Conv2d(width, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=max(1, hidden // 16))
        self.conv3 = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,H,W] -> the same shape."""
        hidden = functional.leaky_relu(self.conv2(functional.leaky_relu(self.conv1(x))))
        out: Tensor = x + self.conv3(hidden)
        return out


class DownBlock(nn.Module):
    """ResBlocks, half the size, 1x1 to the next width."""

    def __init__(self, width: int, deeper: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResBlock(width) for _ in range(count)))
        self.proj = nn.Conv2d(width, deeper, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,H,W] -> [1,n,H/2,W/2]."""
        out: Tensor = self.proj(bicubic(self.blocks(x), scale=0.5))
        return out


class DownResidual(nn.Module):
    """3x3 to a quarter of the next width, each 2x2 pixels into channels."""

    def __init__(self, width: int, deeper: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width, deeper // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,H,W] -> [1,n,H/2,W/2]."""
        return functional.pixel_unshuffle(self.proj(x), 2)


class UpBlock(nn.Module):
    """1x1 to the next width where it differs, twice the size, ResBlocks."""

    def __init__(self, deeper: int, width: int, count: int) -> None:
        super().__init__()
        self.proj = nn.Identity() if deeper == width else nn.Conv2d(deeper, width, 1, bias=False)
        self.blocks = nn.Sequential(*(ResBlock(width) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,n,H,W] -> [1,c,2H,2W]."""
        out: Tensor = self.blocks(bicubic(self.proj(x), scale=2))
        return out


class UpResidual(nn.Module):
    """3x3 to four times the next width, channels into 2x2 pixels."""

    def __init__(self, deeper: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(deeper, 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,n,H,W] -> [1,c,2H,2W]."""
        return functional.pixel_shuffle(self.proj(x), 2)


class Encoder(nn.Module):
    """Image -> latent [1,C,h,w]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        counts = config.encoder_blocks_per_stage
        widths = stage_widths(config.encoder_ch_0, config.encoder_ch_max, len(counts))
        stages = list(zip(widths, widths[1:], counts, strict=False))
        self.latent_channels = config.latent_channels
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(DownBlock(*stage) for stage in stages)
        self.residuals = nn.ModuleList(DownResidual(width, deeper) for width, deeper, _ in stages)
        self.conv_out = EncoderHead(widths[-1], config.latent_channels)

    def forward(self, image: Tensor) -> Tensor:
        """`image` [360,640,3] uint8 -> [1,C,h,w] in the dtype of the weights."""
        pixels = image.to(self.conv_in.weight.dtype).permute(2, 0, 1)[None] / 255 * 2 - 1
        x = self.conv_in(bicubic(pixels, size=SQUARE))
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + residual(x)
        latent: Tensor = self.conv_out(x)
        return latent


class EncoderHead(nn.Module):
    """3x3 to the latent channels; plus the mean over groups of the input's channels, scaled to keep their variance."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width, latent, 3, padding=1)
        self.groups = width // latent

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,h,w] -> [1,C,h,w]."""
        shortcut = torch.unflatten(x, 1, (self.groups, -1)).mean(dim=1) * math.sqrt(self.groups)
        out: Tensor = self.proj(x) + shortcut
        return out


class DecoderStem(nn.Module):
    """3x3 from the latent channels; plus the input with every channel repeated, scaled to keep its power."""

    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(latent, width, 3, padding=1)
        self.repeats = width // latent

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,C,h,w] -> [1,c,h,w]."""
        out: Tensor = self.proj(x) + x.repeat_interleave(self.repeats, dim=1) / math.sqrt(self.repeats)
        return out


class DecoderHead(nn.Module):
    """silu, 3x3 to the image's channels, and only then the resize to the image's size."""

    def __init__(self, width: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width, config.channels, 3, padding=1)
        self.size = config.sample_size

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,512,512] -> [1,channels,360,640]."""
        return self.resized(self.proj(functional.silu(x)))

    def resized(self, x: Tensor) -> Tensor:
        """To the image's size."""
        return bicubic(x, size=self.size)


class Decoder(nn.Module):
    """Latent -> image."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        counts = config.decoder_blocks_per_stage
        widths = stage_widths(config.decoder_ch_0, config.decoder_ch_max, len(counts))[::-1]
        stages = list(zip(widths, widths[1:], counts, strict=False))
        self.conv_in = DecoderStem(config.latent_channels, widths[0])
        self.blocks = nn.ModuleList(UpBlock(*stage) for stage in stages)
        self.residuals = nn.ModuleList(UpResidual(deeper, width) for deeper, width, _ in stages)
        self.conv_out = DecoderHead(widths[-1], config)
        self.frame = Pixels()

    def forward(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,h,w] -> [360,640,3] uint8."""
        x = self.conv_in(latent)
        for block, residual in zip(self.blocks, self.residuals, strict=True):
            x = block(x) + residual(x)
        frame: Tensor = self.frame(self.conv_out(x))
        return frame


def to_pixels(x: Tensor) -> Tensor:
    """[1,c,H,W] in [-1,1] -> [H,W,3] uint8, rounded, first three channels."""
    levels = (x[0, :3].float() / 2 + 0.5).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(1, 2, 0)


class Pixels(nn.Module):
    """What comes out of the decoder, as an image."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` [1,c,360,640] in [-1,1] -> [360,640,3] uint8."""
        return to_pixels(x)


class Autoencoder(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
