"""The layers of the transformer: self-attention, cross-attention, control fusion, and the block that joins them."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager import rope
from waypoint_parity.reference.eager.conditioning import ConditioningHead
from waypoint_parity.reference.eager.context import PassContext
from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.math import attention, rms_norm
from waypoint_parity.reference.eager.mlp import MLP


class SelfAttention(nn.Module):
    """Grouped-query attention of a frame's tokens to themselves, in both directions, and to the cached frames."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        key_width = config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, key_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, key_width, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.gate_proj = nn.Linear(config.n_heads, config.n_heads, bias=False) if config.gated_attn else None
        self.v_lamb = nn.Parameter(torch.empty(())) if config.value_residual else None
        self.q_rope = nn.Identity()
        self.k_rope = nn.Identity()
        self.attend = attention

    def forward(self, a: Tensor, context: PassContext, cache: RingCache) -> Tensor:
        """`a` [1,T,M], the modulated norm of the tokens -> [1,T,M]. Leaves the frame's keys and values in the cache."""
        q = rearrange(self.q_proj(a), "B T (H D) -> B H T D", H=self.n_heads)
        k = rearrange(self.k_proj(a), "B T (G D) -> B G T D", G=self.n_kv_heads)
        v = rearrange(self.v_proj(a), "B T (G D) -> B G T D", G=self.n_kv_heads)
        q = self.q_rope(rope.rotate(rms_norm(q), context.angles))
        k = self.k_rope(rope.rotate(rms_norm(k), context.angles))
        keys, values = cache.see(context.frame, k, self._with_residual(v, context))
        y = self.attend(q, keys, values)
        if self.gate_proj is not None:
            gates = self.gate_proj(a[..., : self.n_heads])
            y = y * rearrange(gates.sigmoid(), "B T H -> B H T 1")
        out: Tensor = self.out_proj(rearrange(y, "B H T D -> B T (H D)"))
        return out

    def _with_residual(self, v: Tensor, context: PassContext) -> Tensor:
        """Mix in layer 0's own raw values: never those of the layer before, which are themselves a mixture."""
        if context.first_value is None:
            context.first_value = v
        return v if self.v_lamb is None else v + self.v_lamb * (context.first_value - v)


class CrossAttention(nn.Module):
    """Attention of the tokens to the prompt, at the prompt's width.

    Padding is not masked: the embeddings are zero there, so those keys score 0 and take their share of the softmax.
    """

    def __init__(self, width: int, prompt_width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, prompt_width, bias=False)
        self.k_proj = nn.Linear(prompt_width, prompt_width, bias=False)
        self.v_proj = nn.Linear(prompt_width, prompt_width, bias=False)
        self.out_proj = nn.Linear(prompt_width, width, bias=False)
        self.attend = attention

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """`x` [1,T,M], `prompt` [1,P,E] -> [1,T,M]."""
        q = rearrange(self.q_proj(x), "B T (heads D) -> B heads T D", D=self.head_dim)
        k = rearrange(self.k_proj(prompt), "B P (heads D) -> B heads P D", D=self.head_dim)
        v = rearrange(self.v_proj(prompt), "B P (heads D) -> B heads P D", D=self.head_dim)
        y = self.attend(rms_norm(q), rms_norm(k), v)
        out: Tensor = self.out_proj(rearrange(y, "B heads T D -> B T (heads D)"))
        return out


class ControlFusion(nn.Module):
    """An MLP over every token and the frame's control vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = MLP(2 * width, width, width)

    def forward(self, x: Tensor, ctrl: Tensor) -> Tensor:
        """fc2(silu(Wx x + Wc c)), fc1 = [Wx | Wc]: `x` [1,T,M], `ctrl` [1,1,M] -> [1,T,M].

        Two products and a sum, not one product over the joined inputs: in bf16 their rounding differs (golden/bf16:
        bit-identical, against 4.2e-3).
        """
        of_token, of_control = self.mlp.fc1.weight.chunk(2, dim=1)
        hidden = silu(linear(x, of_token) + linear(ctrl, of_control))
        fused: Tensor = self.mlp.fc2(hidden)
        return fused


class Block(nn.Module):
    """Self-attention, prompt, control, MLP; the first and the last are modulated by the noise level."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        width, prompt_width = config.d_model, config.prompt_embedding_dim or 0
        has_prompt, has_control = config.has_prompt(layer), config.has_control(layer)
        self.cond_head = ConditioningHead(width)
        self.attn = SelfAttention(config)
        self.prompt_cross_attn = CrossAttention(width, prompt_width, config.head_dim) if has_prompt else None
        self.ctrl_mlpfusion = ControlFusion(width) if has_control else None
        self.mlp = MLP(width, width * config.mlp_ratio, width)

    def forward(self, x: Tensor, context: PassContext, cache: RingCache) -> Tensor:
        """`x` [1,T,M] -> [1,T,M]."""
        s0, b0, g0, s1, b1, g1 = self.cond_head(context.cond)
        x = x + g0 * self.attn(rms_norm(x) * (1 + s0) + b0, context, cache)
        if self.prompt_cross_attn is not None and context.prompt is not None:
            x = x + self.prompt_cross_attn(rms_norm(x), rms_norm(context.prompt))
        if self.ctrl_mlpfusion is not None:
            x = x + self.ctrl_mlpfusion(rms_norm(x), rms_norm(context.ctrl))
        out: Tensor = x + g1 * self.mlp(rms_norm(x) * (1 + s1) + b1)
        return out
