"""OrthoRoPE: every pair of a head turns by one of three coordinates: x, y or time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.config import WaypointConfig


@dataclass(frozen=True)
class Rotation:
    """cos and sin of the angles of one frame's tokens, each [T, D/2] fp32."""

    cos: Tensor
    sin: Tensor


def axis_angles(length: int, pairs: int, highest: float) -> Tensor:
    """Angles [length, pairs] of one spatial axis: coordinates times frequencies.

    The coordinates are those of cell centres in (-1, 1). The frequencies run linearly from pi to pi * highest / 2, each
    used for two consecutive pairs.
    """
    coordinates = torch.linspace(-1 + 1 / length, 1 - 1 / length, length)
    frequencies = math.pi * torch.linspace(1, highest / 2, pairs // 2)
    return torch.outer(coordinates, frequencies.repeat_interleave(2))


def time_frequencies(pairs: int) -> Tensor:
    """Frequencies [pairs] of the time axis: 10000 ** (-2i / pairs), each used for two consecutive pairs."""
    exponents = torch.arange(0, pairs, 2, dtype=torch.float32) / pairs
    return (10000.0**-exponents).repeat_interleave(2)


def spatial_angles(config: WaypointConfig) -> Tensor:
    """Angles [T, D/4] of the tokens' places in the grid: those of x, then those of y."""
    h, w, pairs = config.height, config.width, config.head_dim // 8
    highest = 0.8 * min(h, w)
    x = axis_angles(w, pairs, highest).expand(h, w, -1)
    y = axis_angles(h, pairs, highest)[:, None].expand(h, w, -1)
    return torch.cat((x, y), dim=-1).flatten(0, 1)


class OrthoRoPE(nn.Module):
    """Makes the rotation of a frame. Angles are fp32 whatever the model's dtype; only cos and sin pass through it."""

    spatial: Tensor
    temporal: Tensor

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.register_buffer("spatial", spatial_angles(config))
        self.register_buffer("temporal", time_frequencies(config.head_dim // 4))

    def forward(self, timestamp: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of the frame with clock `timestamp` [1,1] int64, with the values that a model in `dtype` has."""
        time = (timestamp.float() * self.temporal).expand(len(self.spatial), -1)
        angles = torch.cat((self.spatial, time), dim=-1)
        return Rotation(angles.cos().to(dtype).float(), angles.sin().to(dtype).float())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the consecutive pairs of `x` [..., T, D]; write all first components, then all second ones. fp32 inside."""
    first, second = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    cos, sin = rotation.cos, rotation.sin
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)
