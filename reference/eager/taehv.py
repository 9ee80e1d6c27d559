"""TAEHV: four pictures <-> one latent, by plain convolutions that remember the frames before.

Each half is a list of layers, and a layer is called by its place in it, as in the checkpoint. The frames of one latent
go through a layer together, first frame first: [n,c,H,W], n = how many there are at that place (4, 2 or 1).
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, relu

from waypoint_parity.harness.families.waypoint.config import TaehvConfig

# Channels of a picture once 2x2 pixels are one.
PATCH, PATCH_CHANNELS = 2, 12
# How often the first latent of a stream is fed before it is decoded.
PRIMING = 3


def conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution with zero padding."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class Clamp(nn.Module):
    """Latents, softly limited to (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """[1,C,h,w] -> [1,C,h,w]."""
        return torch.tanh(x / 3) * 3


class MemBlock(nn.Module):
    """A residual block that sees every frame beside the frame before; the last one it keeps for the next call."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv3(2 * width, width), nn.ReLU(), conv3(width, width), nn.ReLU(), conv3(width, width)
        )
        self.memory: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[n,c,H,W] -> [n,c,H,W]. Before the first frame of a stream there are zeros."""
        before = torch.zeros_like(x[:1]) if self.memory is None else self.memory
        past = torch.cat([before, x[:-1]])
        self.memory = x[-1:].clone()  # without the frames before it, which a view would keep too
        return relu(self.conv(torch.cat([x, past], dim=1)) + x)


class TPool(nn.Module):
    """Make one frame of `stride` consecutive ones."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n,c,H,W] -> [n/stride,c,H,W]; of the channels those of the earlier frame come first."""
        y: Tensor = self.conv(rearrange(x, "(n s) c H W -> n (s c) H W", s=self.stride))
        return y


class TGrow(nn.Module):
    """Make `stride` consecutive frames of one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, stride * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n,c,H,W] -> [n*stride,c,H,W]; of the channels those of the earlier frame come first."""
        y: Tensor = rearrange(self.conv(x), "n (s c) H W -> (n s) c H W", s=self.stride)
        return y


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[n,c,H,W] -> [n,c,*size]: bilinear, corners not aligned, no antialiasing. The same where the size is."""
    return interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=False)


class Stream(nn.ModuleList):
    """Layers one behind the other, of which some remember."""

    def reset(self) -> None:
        """Begin a stream: nothing is remembered."""
        for layer in self:
            if isinstance(layer, MemBlock):
                layer.memory = None

    def through(self, x: Tensor) -> Tensor:
        """`x` after all layers."""
        for layer in self:
            x = layer(x)
        return x

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: the dtype of its weights."""
        return next(self.parameters()).dtype


class Encoder(Stream):
    """Four pictures -> latent."""

    def __init__(self, config: TaehvConfig) -> None:
        width = config.encoder_width
        layers = [
            conv3(PATCH_CHANNELS, width),  # 0
            nn.ReLU(),
            *self._stage(width, pooled=2),  # 2..6: 4 frames -> 2
            *self._stage(width, pooled=2),  # 7..11: 2 frames -> 1
            *self._stage(width, pooled=1),  # 12..16
            conv3(width, config.latent_channels),  # 17
        ]
        super().__init__(layers)
        self.inner_size = config.inner_size

    @staticmethod
    def _stage(width: int, pooled: int) -> list[nn.Module]:
        """Fewer frames, half the sides, memory."""
        blocks = [MemBlock(width) for _ in range(3)]
        return [TPool(width, pooled), conv3(width, width, stride=2, bias=False), *blocks]

    def forward(self, image: Tensor) -> Tensor:
        """`image` [4,H,W,3] uint8 -> latent [1,C,h,w], in the dtype of the weights."""
        pixels = rearrange(image, "n H W c -> n c H W").to(self.dtype) / 255
        return self.through(pixel_unshuffle(resize(pixels, self.inner_size), PATCH))


class Decoder(Stream):
    """Latent -> four pictures."""

    def __init__(self, config: TaehvConfig) -> None:
        first, second, third, last = config.decoder_widths
        layers = [
            Clamp(),  # 0
            conv3(config.latent_channels, first),
            nn.ReLU(),
            *self._stage(first, second, grown=1),  # 3..8
            *self._stage(second, third, grown=2),  # 9..14: 1 frame -> 2
            *self._stage(third, last, grown=2),  # 15..20: 2 frames -> 4
            nn.ReLU(),
            conv3(last, PATCH_CHANNELS),  # 22
        ]
        super().__init__(layers)
        self.picture_size = config.picture_size
        self.primed = False

    @staticmethod
    def _stage(width: int, following: int, grown: int) -> list[nn.Module]:
        """Memory, double the sides, more frames, the width of the following stage."""
        blocks = [MemBlock(width) for _ in range(3)]
        double = nn.Upsample(scale_factor=2, mode="nearest")
        return [*blocks, double, TGrow(width, grown), conv3(width, following, bias=False)]

    def reset(self) -> None:
        """Begin a stream: nothing is remembered, and the next latent is its first."""
        super().reset()
        self.primed = False

    def forward(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,h,w] -> pictures [4,H,W,3] uint8."""
        latent = latent.to(self.dtype)
        if not self.primed:
            self._prime(latent)
        pixels = pixel_shuffle(self.through(latent), PATCH).clamp(0, 1)
        levels = resize(pixels, self.picture_size).clamp(0, 1) * 255
        return rearrange(levels.round().to(torch.uint8), "n c H W -> n H W c")

    def _prime(self, latent: Tensor) -> None:
        """Feed the first latent for what the layers remember of it; its pictures are dropped.

        By `forward`, past the hooks: what is watched is the answer, and it comes once.
        """
        for _ in range(PRIMING):
            x = latent
            for layer in self:
                x = layer.forward(x)
        self.primed = True


class Taehv(nn.Module):
    """Encoder and decoder, each with a stream of its own. Its submodules have the names of the checkpoint's keys."""

    def __init__(self, config: TaehvConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def reset(self) -> None:
        """Begin both streams anew."""
        self.encoder.reset()
        self.decoder.reset()


def load_taehv(
    config: TaehvConfig, weights: Mapping[str, Tensor], *, device: torch.device, dtype: torch.dtype
) -> Taehv:
    """The autoencoder of `config` with `weights`, for inference, in `dtype` on `device`."""
    with torch.device("meta"):  # without memory or initial values: every weight comes from the checkpoint
        autoencoder = Taehv(config)
    autoencoder.load_state_dict(weights, strict=True, assign=True)
    return autoencoder.to(device=device, dtype=dtype).requires_grad_(False)
