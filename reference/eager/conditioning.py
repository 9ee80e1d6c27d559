"""What steers the blocks: the noise level, the controls, and the six vectors that a block makes of the noise level."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from waypoint_parity.reference.eager.mlp import MLP

SIGMA_FREQUENCIES = 256
SIGMA_SCALE = 1000.0
SIGMA_BASE = 10000.0


class NoiseConditioner(nn.Module):
    """Noise level -> conditioning vector. Its weights stay fp32 in every run (see `load_world_model`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * SIGMA_FREQUENCIES, 4 * width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        """`sigma` [1,1] -> [1,1,M], in sigma's dtype; computed in fp32."""
        phase = (sigma.float() * SIGMA_SCALE).unsqueeze(-1) * self.frequencies(sigma.dtype).to(sigma.device)
        features = math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], dim=-1)
        cond: Tensor = self.mlp(features)
        return cond.to(sigma.dtype)

    @staticmethod
    def frequencies(dtype: torch.dtype) -> Tensor:
        """10000 ** (-i/255), i = 0..255, fp32, after passing through `dtype`.

        By logspace and on the CPU, because phases reach 1000 radians and the last bit of the table shows. A model cast
        to bf16 keeps the rounded table: measured on golden/bf16, rounding table and weights is bit-identical, exact
        weights are off by 3.6e-3, an exact table by 3.6e-1.
        """
        table = torch.logspace(0, -1, SIGMA_FREQUENCIES, base=SIGMA_BASE, device="cpu")
        return table.to(dtype).float()


class ControlEmbedding(nn.Module):
    """Mouse, buttons and scroll wheel -> control vector."""

    def __init__(self, n_buttons: int, hidden: int, width: int) -> None:
        super().__init__()
        self.mlp = MLP(n_buttons + 3, hidden, width)

    def forward(self, mouse: Tensor, button: Tensor, scroll: Tensor) -> Tensor:
        """`mouse` [2], `button` [n_buttons], `scroll` [1] -> [1,1,M]. Of the scroll only the sign counts."""
        controls = torch.cat([mouse, button, scroll.sign()])
        embedding: Tensor = self.mlp(controls.expand(1, 1, -1))
        return embedding


class ConditioningHead(nn.Module):
    """Conditioning vector -> the six modulation vectors of one block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias_in = nn.Parameter(torch.empty(width))
        # Equal in all blocks of a published checkpoint, and stored there once per block.
        self.cond_proj = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(6))

    def forward(self, cond: Tensor) -> Tensor:
        """`cond` [1,1,M] -> [6,1,1,M]: scale, bias, gate of the attention, then scale, bias, gate of the MLP."""
        biased = silu(cond + self.bias_in)
        return torch.stack([project(biased) for project in self.cond_proj])


class NullEmbedding(nn.Module):
    """The learned embedding of an absent condition. Training used it; it is stored and has no part in inference."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null_emb = nn.Parameter(torch.empty(1, 1, width))
