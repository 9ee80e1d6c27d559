"""OrthoRoPE: every pair of a head turns by one of three coordinates: x, y or time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.generation import WAYPOINT_1


@dataclass(frozen=True)
class Rotation:
    """cos and sin of the angles of one frame's tokens, each [T, D/2] fp32."""

    cos: Tensor
    sin: Tensor

    def stacked(self) -> Tensor:
        """Both in one, [2,1,1,T,D/2]."""
        return torch.stack((self.cos, self.sin))[:, None, None]

    @classmethod
    def unstacked(cls, both: Tensor) -> "Rotation":
        """The way back."""
        return cls(*both[:, 0, 0])


def cell_centres(cells: int) -> Tensor:
    """Where the `cells` of an axis from -1 to 1 lie."""
    return torch.linspace(-1 + 1 / cells, 1 - 1 / cells, cells)


def spatial_frequencies(config: WaypointConfig) -> Tensor:
    """Frequencies [D/8] of a spatial axis: linearly from pi to pi * F/2, each used for two consecutive pairs."""
    highest = config.rope_nyquist_frac * min(config.height, config.width)
    return (math.pi * torch.linspace(1, highest / 2, config.head_dim // 16)).repeat_interleave(2)


USUAL_TIME = WAYPOINT_1.falling(10000.0)


def time_frequencies(pairs: int, falling: Callable[[Tensor], Tensor] = USUAL_TIME) -> Tensor:
    """Frequencies [pairs] of the time axis: theta ** (-2i / pairs), each used for two consecutive pairs."""
    return falling(torch.arange(0, pairs, 2, dtype=torch.float32) / pairs).repeat_interleave(2)


def rope_tables(config: WaypointConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tables of OrthoRoPE in a model of `dtype`, by name. They are fp32, of whatever values."""
    habits, grid = config.generation, (config.height, config.width, config.head_dim // 8)
    y, x = (cell_centres(cells) for cells in grid[:2])
    places = torch.cat((x[:, None].expand(grid), y[:, None, None].expand(grid)), dim=-1).flatten(0, 1)
    waves = habits.frequencies_in(spatial_frequencies(config).repeat(2), dtype)
    temporal = time_frequencies(config.head_dim // 4, habits.falling(config.rope_theta))
    spatial = {"spatial": places * waves} if habits.tables_places else {"spatial": places, "waves": waves}
    return spatial | {"temporal": habits.frequencies_in(temporal, dtype)}


class OrthoRoPE(nn.Module):
    """Makes the rotation of a frame, in fp32 whatever the model's dtype.

    A token's place turns the first pairs, x then y: `spatial` [T, D/4] are the angles, or else coordinates, and then
    `waves` [D/4] are their frequencies. The clock turns the other pairs, by the frequencies `temporal` [D/4].
    """

    spatial: Tensor
    waves: Tensor | None
    temporal: Tensor

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.clock_ratio, self.generation = config.clock_ratio, config.generation
        for name, table in ({"waves": None} | rope_tables(config, torch.float32)).items():
            self.register_buffer(name, table)

    def forward(self, timestamp: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of the frame with clock `timestamp` [1,1] int64, with the values that a model in `dtype` has."""
        place = self.spatial if self.waves is None else self.spatial * self.waves
        time = (timestamp * self.clock_ratio).float() * self.temporal
        angles = torch.cat((place, time.expand(len(place), -1)), dim=-1)
        return Rotation(*(self.generation.turns_in(turn, dtype) for turn in (angles.cos(), angles.sin())))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the consecutive pairs of `x` [..., T, D]; write all first components, then all second ones. fp32 inside."""
    first, second = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    cos, sin = rotation.cos, rotation.sin
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)
