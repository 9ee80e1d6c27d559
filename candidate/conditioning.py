"""What steers a pass: the noise level, the controls, and the scales, biases and gates made of the noise level."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.config import WaypointConfig

# The 256 wave numbers of a noise level fall from 1 to 1 / LONGEST_WAVE; a level is counted in thousandths.
WAVES, LONGEST_WAVE, THOUSANDTHS = 256, 10_000, 1000
# Of a block: scale, bias and gate around its attention, then those around its MLP.
SLOTS = 6


def perceptron(widths: Iterable[int]) -> nn.Sequential:
    """Matrices from each of the `widths` to the next one, with silu between them."""
    layers: list[nn.Module] = []
    for given, made in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(given, made, bias=False)]
    return nn.Sequential(*layers[1:])


def unit_rms(x: Tensor) -> Tensor:
    """`x` [..., M] scaled to a root mean square of 1 along its last axis. No weight; torch's own epsilon."""
    return functional.rms_norm(x, (x.size(-1),))


def adapt(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`x` [1,T,M], scaled to unit size, times 1 + `scale` [1,1,M], plus `bias` [1,1,M]."""
    # Not addcmul: it would round once where a model in bf16 rounds twice, which is 3e-3 at the projections behind it.
    return unit_rms(x) * (1 + scale) + bias


def wave_numbers() -> Tensor:
    """[256] fp32. By logspace and by nothing else: phases reach 1000 radians, so the last bit of a number is seen."""
    return torch.logspace(0, -1, WAVES, base=LONGEST_WAVE)


class NoiseConditioner(nn.Module):
    """A noise level as a vector. It computes in fp32; in what precision its values are, whoever loads it decides."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", wave_numbers())
        self.mlp = perceptron((2 * WAVES, 4 * config.d_model, config.d_model))

    def forward(self, level: Tensor) -> Tensor:
        """`level` [1,1] -> cond [1,1,M], in the dtype of the level."""
        turns = torch.mul(level.float() * THOUSANDTHS, self.frequencies)
        waves = torch.stack((turns.sin(), turns.cos()), dim=1) * sqrt(2)
        cond: Tensor = self.mlp(waves.view(1, 1, -1))
        return cond.type_as(level)


class ControlEmbedding(nn.Module):
    """What the player does in a frame, as a vector."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.generation = config.generation
        self.mlp = perceptron((2 + config.n_buttons + 1, config.mlp_ratio * config.d_model, config.d_model))

    def forward(self, mouse: Tensor, button: Tensor, scroll: Tensor) -> Tensor:
        """`mouse` [2], `button` [n_buttons], `scroll` [1] -> [1,1,M]."""
        embedding: Tensor = self.mlp(torch.cat((mouse, button, self.generation.read_scroll(scroll)))[None, None])
        return embedding


@dataclass(frozen=True)
class Modulations:
    """All that one noise level does to a pass: `blocks`, [6,1,1,M] each; `out_norm` [2,1,1,M], scale and bias."""

    blocks: tuple[Tensor, ...]
    out_norm: Tensor


class Modulator(nn.Module):
    """Every block's modulations in one product: blocks differ in a bias only, and share the matrices behind it."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        rows = config.d_model
        self.bias_in = nn.Parameter(torch.zeros(config.n_layers, rows))
        self.cond_proj = nn.Linear(rows, SLOTS * rows, bias=False)
        self.out_norm = nn.Linear(rows, 2 * rows, bias=False)

    def forward(self, cond: Tensor) -> Modulations:
        """`cond` [1,1,M] -> what it does."""
        lit = functional.silu(self.bias_in + cond[0])
        table: Tensor = self.cond_proj(lit)
        slots = table.view(len(lit), SLOTS, 1, 1, -1)
        return Modulations(tuple(slots), self.of_out_norm(functional.silu(cond)))

    def of_out_norm(self, lit: Tensor) -> Tensor:
        """Scale and bias behind the last block, from silu(cond) [1,1,M]."""
        pair: Tensor = self.out_norm(lit)
        return pair.view(2, 1, 1, -1)
