"""The DCAE, which makes a latent of one picture and a picture of one latent: functions over a table of kernels.

A kernel bears the name that it has in a checkpoint, so nothing is laid out anew but the weight normalisation, which is
multiplied out. How wide and how grouped a convolution is, its kernel's shape says.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.config import AutoencoderConfig
from waypoint_parity.candidate.pictures import Pictures

# The encoder sees every picture as a square of this side.
SIDE = 512
SLOPE = 0.01
LENGTH, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def multiplied_out(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels and biases in fp32 by name, each kernel as long per output channel as its stored magnitude says."""
    table = {}
    for key, value in weights.items():
        if key.endswith(DIRECTION):
            name = key.removesuffix(DIRECTION)
            table[f"{name}.weight"] = with_length(value.float(), weights[name + LENGTH].float())
        elif not key.endswith(LENGTH):
            table[key] = value.float()
    return table


def with_length(kernel: Tensor, length: Tensor) -> Tensor:
    """`kernel` [out,in,k,k] with `length` [out,1,1,1] as the norm of each output channel."""
    return length / kernel.flatten(1).norm(dim=1).view_as(length) * kernel


class Table(nn.Module):
    """The kernels of one half of the autoencoder, and the convolutions that they make."""

    def __init__(self, half: str, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        prefix = f"{half}."
        mine = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        # Dots have a meaning in the names of parameters.
        self.kernels = nn.ParameterDict(
            {key.replace(".", "/"): nn.Parameter(_fast(value), requires_grad=False) for key, value in mine.items()}
        )

    def conv(self, name: str, x: Tensor) -> Tensor:
        """The convolution called `name`; the picture keeps its size."""
        path = name.replace(".", "/")
        kernel = self.kernels[f"{path}/weight"]
        bias = self.kernels.get(f"{path}/bias")
        return functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2, groups=x.shape[1] // kernel.shape[1])

    def has(self, name: str) -> bool:
        """Whether there is a convolution called `name`."""
        return f"{name.replace('.', '/')}/weight" in self.kernels

    def bottlenecks(self, block: str, x: Tensor) -> Tensor:
        """Every bottleneck of `block`, one after the other: twice as wide inside, grouped in the middle, plus `x`."""
        for at in self._bottlenecks(block):
            wide = functional.leaky_relu_(self.conv(f"{at}.conv1", x), SLOPE)
            wide = functional.leaky_relu_(self.conv(f"{at}.conv2", wide), SLOPE)
            x = self.conv(f"{at}.conv3", wide) + x
        return x

    def _bottlenecks(self, block: str) -> Iterator[str]:
        number = 0
        while self.has(f"{block}.blocks.{number}.conv1"):
            yield f"{block}.blocks.{number}"
            number += 1


def _fast(value: Tensor) -> Tensor:
    """A kernel in the memory format that convolutions run fastest in, here and on a GPU; a bias as it is."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value.contiguous()


class Ladder(nn.Module):
    """One half: in, a rung per stage, out. Each rung has a long way through blocks and a short one around them."""

    def __init__(self, half: str, weights: Mapping[str, Tensor], stages: int) -> None:
        super().__init__()
        self.table = Table(half, weights)
        # Sites: what these hand back is what goes on.
        self.conv_in, self.conv_out = nn.Identity(), nn.Identity()
        self.blocks, self.residuals = (nn.ModuleList(nn.Identity() for _ in range(stages)) for _ in range(2))

    def climb(self, x: Tensor) -> Tensor:
        """From what enters the first rung to what leaves the last one."""
        for number, (block, residual) in enumerate(zip(self.blocks, self.residuals, strict=True)):
            x = block(self.long_way(f"blocks.{number}", x)) + residual(self.short_way(f"residuals.{number}.proj", x))
        return x

    def long_way(self, block: str, x: Tensor) -> Tensor:
        """The way through the bottlenecks of `block`."""
        raise NotImplementedError

    def short_way(self, residual: str, x: Tensor) -> Tensor:
        """The way around them, through one convolution."""
        raise NotImplementedError


class Encoder(Ladder):
    """A picture [H,W,3] uint8 -> its latent [1,C,h*ph,w*pw] in fp32."""

    def __init__(self, weights: Mapping[str, Tensor], config: AutoencoderConfig) -> None:
        super().__init__("encoder", weights, len(config.encoder_blocks_per_stage))

    def forward(self, picture: Tensor) -> Tensor:
        """See the class."""
        x = picture.movedim(-1, 0)[None].float().mul(2 / 255).sub(1)
        x = resize(x.contiguous(memory_format=torch.channels_last), (SIDE, SIDE))
        x = self.climb(self.conv_in(self.table.conv("conv_in.proj", x)))
        return self.conv_out(self.leave(x))

    def long_way(self, block: str, x: Tensor) -> Tensor:
        """At the finer size, then half of it and as wide as the next rung."""
        return self.table.conv(f"{block}.down.proj", resize(self.table.bottlenecks(block, x), 0.5))

    def short_way(self, residual: str, x: Tensor) -> Tensor:
        """Four neighbours become channels."""
        return functional.pixel_unshuffle(self.table.conv(residual, x), 2)

    def leave(self, x: Tensor) -> Tensor:
        """The latent: a convolution, plus channels averaged over groups of equal remainder, as large as one of them."""
        latent = self.table.conv("conv_out.proj", x)
        groups = x.shape[1] // latent.shape[1]
        return latent + x.unflatten(1, (groups, -1)).mean(dim=1) * groups**0.5


class Decoder(Ladder):
    """A latent [1,C,h*ph,w*pw] in fp32 -> its picture [H,W,3] uint8."""

    def __init__(self, weights: Mapping[str, Tensor], config: AutoencoderConfig) -> None:
        super().__init__("decoder", weights, len(config.decoder_blocks_per_stage))
        self.size = config.sample_size
        self.frame = Pictures()

    def forward(self, latent: Tensor) -> Tensor:
        """See the class."""
        x = self.climb(self.conv_in(self.enter(latent.contiguous(memory_format=torch.channels_last))))
        pixels = self.conv_out(self.resized(self.painted(functional.silu(x))))
        picture: Tensor = self.frame(pixels[:, :3] / 2 + 0.5)
        return picture

    def enter(self, latent: Tensor) -> Tensor:
        """A convolution, plus each channel of `latent` so many times in a row that it is as wide, scaled down."""
        x = self.table.conv("conv_in.proj", latent)
        times = x.shape[1] // latent.shape[1]
        return x + latent.repeat_interleave(times, dim=1) / times**0.5

    def long_way(self, block: str, x: Tensor) -> Tensor:
        """As wide as this rung, twice the size, then the bottlenecks."""
        x = self.table.conv(f"{block}.up.proj", x) if self.table.has(f"{block}.up.proj") else x
        return self.table.bottlenecks(block, resize(x, 2.0))

    def short_way(self, residual: str, x: Tensor) -> Tensor:
        """Channels become four neighbours."""
        return functional.pixel_shuffle(self.table.conv(residual, x), 2)

    def painted(self, x: Tensor) -> Tensor:
        """What the last convolution makes of the lit features `x`: pixels in [-1,1], not yet at their size."""
        return self.table.conv("conv_out.proj", x)

    def resized(self, pixels: Tensor) -> Tensor:
        """`pixels` at the size of a picture."""
        return resize(pixels, self.size)


def resize(x: Tensor, to: tuple[int, int] | float) -> Tensor:
    """`x` at another size, or at a factor of its own; bicubic, corners not aligned, not antialiased."""
    if isinstance(to, tuple):
        return functional.interpolate(x, size=to, mode="bicubic")
    return functional.interpolate(x, scale_factor=to, mode="bicubic")


class Dcae(nn.Module):
    """Both halves. It computes in fp32 in a model of any dtype, and remembers nothing."""

    dtype = torch.float32

    def __init__(self, weights: Mapping[str, Tensor], config: AutoencoderConfig) -> None:
        super().__init__()
        table = multiplied_out(weights)
        self.encoder, self.decoder = Encoder(table, config), Decoder(table, config)

    def reset(self) -> None:
        """There is nothing to forget."""
