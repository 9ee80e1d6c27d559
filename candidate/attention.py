"""Self-attention over the ring, and cross-attention to the prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.conditioning import unit_rms
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.kv_cache import Window, remember
from waypoint_parity.candidate.rope import Rotation, rotate


def split_heads(x: Tensor, width: int) -> Tensor:
    """[1,T,heads*D] -> [1,heads,T,D], D = width."""
    return torch.unflatten(x, -1, (-1, width)).transpose(1, 2)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for `q` [1,H,T,D] and `k`, `v` [1,G,K,D] -> [1,T,H,D].

    Query head j reads key/value head j // (H/G). Without a mask the query heads of a group are only more queries of the
    same keys: folded into one longer query, keys and values are read where they lie, not repeated per query head.
    """
    _, _, tokens, width = q.shape
    out = functional.scaled_dot_product_attention(q.reshape(1, k.shape[1], -1, width), k, v)
    return torch.unflatten(out, 2, (-1, tokens)).permute(0, 3, 1, 2, 4).flatten(2, 3)


class SelfAttention(nn.Module):
    """Attention of one frame's tokens to each other and to the frames in the ring."""

    attend = staticmethod(grouped_attention)

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        key_width = config.n_kv_heads * config.head_dim
        self.widths = (config.d_model, key_width, key_width)
        self.qkv = nn.Linear(config.d_model, sum(self.widths), bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.gate_proj = nn.Linear(config.n_heads, config.n_heads, bias=False) if config.gated_attn else None
        self.v_lamb = nn.Parameter(torch.zeros(())) if config.value_residual else None
        # Sites.
        self.q_proj, self.k_proj, self.v_proj = nn.Identity(), nn.Identity(), nn.Identity()
        self.q_rope, self.k_rope = nn.Identity(), nn.Identity()

    def forward(
        self, x: Tensor, v_first: Tensor | None, rotation: Rotation, ring: Tensor, window: Window
    ) -> tuple[Tensor, Tensor]:
        """`x` [1,T,M] -> the output [1,T,M] and the raw values [1,T,G*D]; layer 0's are the others' `v_first`."""
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q = self.q_rope(rotate(self.normed_heads(q), rotation))
        k = self.k_rope(rotate(self.normed_heads(k), rotation))
        values = split_heads(self.mixed(v, v_first), self.head_dim)
        out = self.attend(q, *remember(ring, k, values, window))
        return self.out_proj(self.gated(out, x).flatten(2)), v

    def normed_heads(self, x: Tensor) -> Tensor:
        """Queries or keys [1,T,heads*D] -> [1,heads,T,D], not rotated yet."""
        return unit_rms(split_heads(x, self.head_dim))

    def mixed(self, v: Tensor, v_first: Tensor | None) -> Tensor:
        """The values that are attended to, [1,T,G*D]: v + v_lamb * (v_first - v) where there is a value residual."""
        return v if self.v_lamb is None or v_first is None else torch.lerp(v, v_first, self.v_lamb)

    def gated(self, out: Tensor, x: Tensor) -> Tensor:
        """Each head of `out` [1,T,H,D] times its gate, which the input `x` [1,T,M] sets."""
        return out if self.gate_proj is None else out * self.gate_proj(x[..., : out.shape[2]]).sigmoid()[..., None]


@dataclass(frozen=True)
class PromptKeys:
    """Keys and values of the prompt for one layer, each [1,E/D,P,D]."""

    k: Tensor
    v: Tensor


class PromptAttention(nn.Module):
    """Attention of a frame's tokens to the prompt, in width E. Padding is not masked: it takes its share, as zeros."""

    attend = staticmethod(grouped_attention)

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        width = config.prompt_width
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, config.d_model, bias=False)

    def read(self, prompt: Tensor) -> PromptKeys:
        """Keys and values of `prompt` [1,P,E]; a session needs them once."""
        k, v = self.kv(unit_rms(prompt)).chunk(2, dim=-1)
        return PromptKeys(self.normed_heads(k), split_heads(v, self.head_dim).contiguous())

    def forward(self, x: Tensor, prompt: PromptKeys) -> Tensor:
        """`x` [1,T,M] -> [1,T,M]."""
        q = self.normed_heads(self.q_proj(unit_rms(x)))
        out: Tensor = self.out_proj(self.attend(q, prompt.k, prompt.v).flatten(2))
        return out

    def normed_heads(self, x: Tensor) -> Tensor:
        """Queries or keys [1,T,E] or [1,P,E] -> [1,E/D,T,D] or [1,E/D,P,D]."""
        return unit_rms(split_heads(x, self.head_dim))
