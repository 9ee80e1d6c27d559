"""The TAEHV, which makes a latent of four pictures and four pictures of a latent, and remembers those before.

Either half is a list of layers that frames stream through, batched: a layer takes all frames of a latent at once. The
layers that remember read [frame | frame before] from windows, which lie in one piece of memory. A window is what the
layer's convolution reads and, in its last frame, what the layer remembers. So nothing is joined anew for each frame.
"""

from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.config import TaehvConfig
from waypoint_parity.candidate.pictures import Pictures

Weights = Mapping[str, Tensor]
# The first decode after a reset is fed the same latent as often before, for the memories alone.
PRIMING = 3
# Pictures of a latent.
FRAMES = 4
Size = tuple[int, int]


class Layer(nn.Module):
    """A layer of the list: frames [n,c,H,W] to frames."""

    def shape_behind(self, frames: int, size: Size) -> tuple[int, Size]:
        """How many frames of which size it makes of `frames` of `size`."""
        return frames, size


class Conv(Layer):
    """A convolution that keeps the size of a frame, or halves it."""

    def __init__(self, weights: Weights, name: str, stride: int = 1) -> None:
        super().__init__()
        bias = weights.get(f"{name}.bias")
        self.weight = nn.Parameter(weights[f"{name}.weight"].contiguous(memory_format=torch.channels_last))
        self.bias = None if bias is None else nn.Parameter(bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n,c,H,W] -> [n,c',H/stride,W/stride]."""
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2)

    def shape_behind(self, frames: int, size: Size) -> tuple[int, Size]:
        """See Layer."""
        return frames, (size[0] // self.stride, size[1] // self.stride)


class Pool(Layer):
    """Every few frames become one."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.conv = Conv(weights, f"{name}.conv")
        out, given = self.conv.weight.shape[:2]
        self.frames = given // out

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n,c,H,W] -> [n/frames,c,H,W]; the earlier frame's channels come first."""
        joined = torch.cat([x[place :: self.frames] for place in range(self.frames)], dim=1)
        pooled: Tensor = self.conv(joined)
        return pooled

    def shape_behind(self, frames: int, size: Size) -> tuple[int, Size]:
        """See Layer."""
        return frames // self.frames, size


class Grow(Layer):
    """Twice the size, and every frame becomes a few. A 1x1 convolution does not mind the size: it comes first."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.conv = Conv(weights, f"{name}.conv")
        out, given = self.conv.weight.shape[:2]
        self.frames = out // given

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n,c,H,W] -> [n*frames,c,2*H,2*W]; the earlier frame has the first channels."""
        n, c, h, w = x.shape
        grown = torch.unflatten(self.conv(x), 1, (self.frames, c)).permute(0, 1, 3, 4, 2)
        doubled = grown[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2, -1)
        return doubled.reshape(n * self.frames, 2 * h, 2 * w, c).permute(0, 3, 1, 2)

    def shape_behind(self, frames: int, size: Size) -> tuple[int, Size]:
        """See Layer."""
        return frames * self.frames, (2 * size[0], 2 * size[1])


class Recall(Layer):
    """A residual block that sees, beside each frame, the one before it in the stream."""

    window: Tensor

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(weights, f"{name}.conv.{place}") for place in (0, 2, 4))

    def remember(self, x: Tensor) -> Tensor:
        """Put `x` [n,c,H,W] into the window; return the window, [n,2*c,H,W]: each frame, and the one before."""
        frame, before = self.window.chunk(2, dim=1)
        before[0].copy_(frame[-1])
        before[1:].copy_(x[:-1])
        frame.copy_(x)
        return self.window

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n,c,H,W] -> the same shape."""
        first, second, third = self.convs
        hidden = functional.relu_(second(functional.relu_(first(self.remember(x)))))
        out: Tensor = third(hidden)
        return functional.relu_(out.add_(x))


class Stream(nn.Module):
    """The layers of one half, by their place in the list; each one's output is a site. Behind some stands a relu."""

    def __init__(self, layers: Mapping[int, Layer], relu_after: Iterable[int], frames: int, size: Size) -> None:
        """The layers for `frames` of `size` at once, none of them remembering anything."""
        super().__init__()
        self.layers = nn.ModuleDict({str(place): layer for place, layer in layers.items()})
        self.relu_after = {str(place) for place in relu_after}
        windows: dict[Recall, tuple[int, ...]] = {}
        for layer in layers.values():
            if isinstance(layer, Recall):
                windows[layer] = (frames, *size, layer.convs[0].weight.shape[1])
            frames, size = layer.shape_behind(frames, size)
        *_, self.last = windows
        weight = self.last.convs[0].weight
        self.memory = torch.zeros(sum(map(prod, windows.values())), dtype=weight.dtype, device=weight.device)
        pieces = self.memory.split([prod(shape) for shape in windows.values()])
        for piece, (layer, shape) in zip(pieces, windows.items(), strict=True):
            layer.window = piece.view(shape).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n,c,H,W], the frames of one latent, through all layers."""
        for place, layer in self.layers.items():
            x = layer(x)
            if place in self.relu_after:
                x = functional.relu(x)
        return x

    def remember(self, x: Tensor) -> None:
        """Leave in the memories what `forward` does. No site shows it, and nothing behind the memories is computed."""
        for place, layer in self.layers.items():
            if layer is self.last:
                break
            x = layer.forward(x)
            if place in self.relu_after:
                x = functional.relu(x)
        self.last.remember(x)


class Encoder(nn.Module):
    """Four pictures [4,H,W,3] uint8 -> their latent [1,C,h*ph,w*pw]."""

    def __init__(self, weights: Weights, config: TaehvConfig) -> None:
        super().__init__()
        layers: dict[int, Layer] = {0: Conv(weights, "encoder.0")}
        for pool in (2, 7, 12):
            layers[pool] = Pool(weights, f"encoder.{pool}")
            layers[pool + 1] = Conv(weights, f"encoder.{pool + 1}", stride=2)
            layers |= _recalls(weights, "encoder", pool + 2)
        layers[17] = Conv(weights, "encoder.17")
        height, width = config.inner_size
        self.stream = Stream(layers, {0}, FRAMES, (height // 2, width // 2))
        self.size = config.inner_size

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        x = pictures.movedim(-1, 1).to(self.stream.memory.dtype) / 255
        x = functional.pixel_unshuffle(_resized(x, self.size), 2)
        latent: Tensor = self.stream(x.contiguous(memory_format=torch.channels_last))
        return latent

    def reset(self) -> None:
        """Remember nothing."""
        self.stream.memory.zero_()


class Decoder(nn.Module):
    """A latent [1,C,h*ph,w*pw] -> its four pictures [4,H,W,3] uint8."""

    def __init__(self, weights: Weights, config: TaehvConfig) -> None:
        super().__init__()
        layers: dict[int, Layer] = {1: Conv(weights, "decoder.1")}
        for first in (3, 9, 15):
            layers |= _recalls(weights, "decoder", first)
            layers[first + 4] = Grow(weights, f"decoder.{first + 4}")
            layers[first + 5] = Conv(weights, f"decoder.{first + 5}")
        layers[22] = Conv(weights, "decoder.22")
        height, width = config.inner_size
        self.stream = Stream(layers, {1, 20}, 1, (height // 16, width // 16))
        self.size = config.picture_size
        self.primed = False
        self.frame = Pictures()

    def forward(self, latent: Tensor) -> Tensor:
        """See the class. The first latent after a reset is fed some times before, for the memories alone."""
        x = torch.tanh(latent / 3) * 3
        x = x.contiguous(memory_format=torch.channels_last)
        for _ in range(0 if self.primed else PRIMING):
            self.stream.remember(x)
        self.primed = True
        pixels = functional.pixel_shuffle(self.stream(x), 2).clamp(0, 1)
        pictures: Tensor = self.frame(_resized(pixels, self.size))
        return pictures

    def reset(self) -> None:
        """Remember nothing."""
        self.stream.memory.zero_()
        self.primed = False


def _recalls(weights: Weights, half: str, first: int) -> dict[int, Layer]:
    """The three layers of a stage that remember, by their place."""
    return {place: Recall(weights, f"{half}.{place}") for place in range(first, first + 3)}


def _resized(x: Tensor, size: Size) -> Tensor:
    """`x` [n,3,H,W] at `size`; where it has that already, as it is."""
    return x if x.shape[-2:] == size else functional.interpolate(x, size=size, mode="bilinear")


class Taehv(nn.Module):
    """Both halves, each with a memory of its own; in the dtype of the `weights`."""

    def __init__(self, weights: Weights, config: TaehvConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(weights, config), Decoder(weights, config)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.decoder.stream.memory.dtype

    def reset(self) -> None:
        """Forget the session before."""
        self.encoder.reset()
        self.decoder.reset()
