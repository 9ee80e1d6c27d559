"""Other formulations of the same mathematics: changes to a loaded model that must not matter.

The noise floor is measured with them: a right implementation may compute so, and its results then differ that much.
"""

from collections.abc import Callable, Iterable
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from waypoint_parity.reference.eager.layers import Block, ConditioningHead, ControlFusion, CrossAttention, SelfAttention
from waypoint_parity.reference.eager.model import WorldModel


def fused_attention(model: WorldModel) -> None:
    """Attend with torch's fused kernel: an online softmax in tiles, probabilities never rounded."""
    for module in model.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            module.attend = _fused


def merged_projections(model: WorldModel) -> None:
    """Compute queries, keys and values in one product, the six modulations in one, and each fusion in one."""
    for module in model.modules():
        if isinstance(module, SelfAttention):
            merged = _merged([module.q_proj, module.k_proj, module.v_proj])
            for name, rows in zip(("q_proj", "k_proj", "v_proj"), merged, strict=True):
                module.add_module(name, rows)
        elif isinstance(module, ConditioningHead):
            module.cond_proj = nn.ModuleList(_merged(module.cond_proj))
        elif isinstance(module, Block) and module.ctrl_mlpfusion is not None:
            module.add_module("ctrl_mlpfusion", _JoinedFusion(module.ctrl_mlpfusion))


FORMULATIONS: dict[str, Callable[[WorldModel], None]] = {
    "fused-attention": fused_attention,
    "merged-projections": merged_projections,
}


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, enable_gqa=True)


class _Rows(nn.Module):
    """Some rows of a product that is computed whole."""

    def __init__(self, whole: Tensor, rows: slice) -> None:
        super().__init__()
        self.whole = whole
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.whole)[..., self.rows]


def _merged(projections: Iterable[nn.Module]) -> list[_Rows]:
    """Each of `projections` as rows of their merged weight. Each of them computes the merged product again."""
    weights: list[Tensor] = [projection.get_parameter("weight") for projection in projections]
    whole = torch.cat(weights)
    ends = accumulate(weight.shape[0] for weight in weights)
    return [_Rows(whole, slice(end - weight.shape[0], end)) for weight, end in zip(weights, ends, strict=True)]


class _JoinedFusion(nn.Module):
    """`ControlFusion` as one product over the joined inputs."""

    def __init__(self, split: ControlFusion) -> None:
        super().__init__()
        self.mlp = split.mlp

    def forward(self, x: Tensor, ctrl: Tensor) -> Tensor:
        """`x` [1,T,M], `ctrl` [1,1,M] -> [1,T,M]."""
        joined = torch.cat([x, ctrl.expand_as(x)], dim=-1)
        fused: Tensor = self.mlp.fc2(silu(self.mlp.fc1(joined)))
        return fused
