"""What conditions the transformer besides history: the noise level, the controls, and the modulations they cause."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.config import WaypointConfig

SIGMA_FREQUENCIES = 256


class MLP(nn.Module):
    """fc2(silu(fc1(x))) over the last axis."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., inputs] -> [..., outputs]."""
        out: Tensor = self.fc2(functional.silu(self.fc1(x)))
        return out


def sigma_frequencies() -> Tensor:
    """10000 ** (-i / 255), [256] fp32."""
    # Phases reach 1000 radians: powers of 10000 would differ in the last bit, and cost 1e-5 in cond.
    return torch.logspace(0, -1, SIGMA_FREQUENCIES, base=10000.0)


class NoiseConditioner(nn.Module):
    """Noise level -> cond [1,1,M]. Table and weights are fp32 in every model, whatever its dtype."""

    frequencies: Tensor

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", sigma_frequencies())
        self.mlp = MLP(2 * SIGMA_FREQUENCIES, 4 * config.d_model, config.d_model)

    def forward(self, sigma: Tensor) -> Tensor:
        """`sigma` [1,1] in the model's dtype -> cond [1,1,M] in that dtype."""
        phase = sigma.float()[..., None] * 1000 * self.frequencies
        features = math.sqrt(2) * torch.cat((phase.sin(), phase.cos()), dim=-1)
        cond: Tensor = self.mlp(features)
        return cond.to(sigma.dtype)


@dataclass(frozen=True)
class Modulations:
    """All modulations that come from one cond vector.

    `blocks`: per block [6,1,1,M]: scale, bias and gate of the attention, then of the MLP.
    `out_norm` [2,1,1,M]: scale and bias.
    """

    blocks: tuple[Tensor, ...]
    out_norm: Tensor


class Modulator(nn.Module):
    """The conditioning heads of all blocks, which share their six matrices, and that of the output norm."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        width = config.d_model
        self.bias_in = nn.Parameter(torch.zeros(config.n_layers, width))
        self.cond_proj = nn.Linear(width, 6 * width, bias=False)
        self.out_norm = nn.Linear(width, 2 * width, bias=False)

    def forward(self, cond: Tensor) -> Modulations:
        """`cond` [1,1,M] -> the modulations of all blocks, from one product with the shared matrices."""
        heads = self.cond_proj(functional.silu(cond[0] + self.bias_in))  # [n_layers, 6*M]
        blocks = torch.unflatten(heads, -1, (6, 1, 1, -1)).unbind(0)
        return Modulations(blocks, self.of_out_norm(functional.silu(cond)))

    def of_out_norm(self, activated: Tensor) -> Tensor:
        """silu(cond) [1,1,M] -> scale and bias of the output norm, [2,1,1,M]."""
        return torch.unflatten(self.out_norm(activated), -1, (2, -1)).movedim(2, 0)


class ControlEmbedding(nn.Module):
    """Controls of a frame -> control embedding [1,1,M]."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.mlp = MLP(config.n_buttons + 3, config.d_model * config.mlp_ratio, config.d_model)

    def forward(self, mouse: Tensor, button: Tensor, scroll: Tensor) -> Tensor:
        """`mouse` [2], `button` [n_buttons], `scroll` [1] (only its sign counts) -> [1,1,M]."""
        embedding: Tensor = self.mlp(torch.cat((mouse, button, scroll.sign()))[None, None])
        return embedding


def modulate(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """rms_norm(x) * (1 + scale) + bias for `x` [1,T,M], `scale` and `bias` [1,1,M]."""
    return torch.addcmul(bias, rms_norm(x), 1 + scale)


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the last axis, without weight, with the default epsilon."""
    return functional.rms_norm(x, x.shape[-1:])
