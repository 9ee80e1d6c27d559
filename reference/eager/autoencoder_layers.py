"""The layers of the autoencoder: its resize, its residual block, both paths of a stage, and both ends.

Every resize is bicubic, without antialiasing, corners not aligned. Widths: c of the shallower, n of the deeper side.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle, pixel_unshuffle, silu

from waypoint_parity.reference.eager.convolution import Convolution

SQUARE = 512


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """[1,channels,H,W] -> [1,channels,height,width]."""
    return interpolate(x, size=(height, width), mode="bicubic", align_corners=False, antialias=False)


class ResBlock(nn.Module):
    """A bottleneck the other way round: widen, mix within groups of 16, narrow, add."""

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
