"""The layers of the transformer: what conditions a pass, the parts of a block, the block, the last norm."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.math import attention, rms_norm, rotate

SIGMA_FREQUENCIES = 256
SIGMA_SCALE = 1000.0
SIGMA_BASE = 10000.0


class MLP(nn.Module):
    """fc2(silu(fc1(x))), without biases; the whole model uses this one."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.fc2(silu(self.fc1(x)))
        return y


class NoiseConditioner(nn.Module):
    """Noise level -> conditioning vector. Its weights stay fp32 in every run (see `load_world_model`).

    `exact`: its frequencies do not pass through the model's dtype.
    """

    def __init__(self, width: int, *, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.mlp = MLP(2 * SIGMA_FREQUENCIES, 4 * width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        """`sigma` [1,1] -> [1,1,M], in sigma's dtype; computed in fp32."""
        frequencies = self.frequencies(torch.float32 if self.exact else sigma.dtype).to(sigma.device)
        phase = (sigma.float() * SIGMA_SCALE).unsqueeze(-1) * frequencies
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
    """Mouse, buttons and scroll wheel -> control vector. `of_scroll`: what it takes of the scroll value."""

    def __init__(
        self, n_buttons: int, hidden: int, width: int, of_scroll: Callable[[Tensor], Tensor] = torch.sign
    ) -> None:
        super().__init__()
        self.mlp = MLP(n_buttons + 3, hidden, width)
        self.of_scroll = of_scroll

    def forward(self, mouse: Tensor, button: Tensor, scroll: Tensor) -> Tensor:
        """`mouse` [2], `button` [n_buttons], `scroll` [1] -> [1,1,M]."""
        controls = torch.cat([mouse, button, self.of_scroll(scroll)])
        embedding: Tensor = self.mlp(controls.expand(1, 1, -1))
        return embedding


class NullEmbedding(nn.Module):
    """The learned embedding of an absent condition, used in training. Checkpoints store it; inference ignores it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null_emb = nn.Parameter(torch.empty(1, 1, width))


class Modulation(NamedTuple):
    """What the noise level does to one part of a block: x + gate * part(rms_norm(x) * (1 + scale) + bias).

    scale, bias, gate: [1,1,M] each
    """

    scale: Tensor
    bias: Tensor
    gate: Tensor


def modulations(vectors: Tensor) -> tuple[Modulation, Modulation]:
    """The modulations of the attention and of the MLP, from the `vectors` [6,1,1,M] of a conditioning head."""
    return Modulation(*vectors[:3]), Modulation(*vectors[3:])


def modulated_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`x` [1,T,M], normalised and then modulated by `scale` and `bias` [1,1,M] -> [1,T,M]."""
    return rms_norm(x) * (1 + scale) + bias


class ConditioningHead(nn.Module):
    """Conditioning vector -> the two modulations of one block, in one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias_in = nn.Parameter(torch.empty(width))
        # Of the attention's half, where that has one of its own [M]; else the MLP's is that of both.
        self.attention_bias: Tensor | None = None
        # Equal in all blocks of a published checkpoint, and stored there once per block.
        self.cond_proj = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(6))

    def forward(self, cond: Tensor) -> Tensor:
        """`cond` [1,1,M] -> [6,1,1,M]: scale, bias, gate of the attention, then the same of the MLP."""
        mlp = silu(cond + self.bias_in)
        attention = mlp if self.attention_bias is None else silu(cond + self.attention_bias)
        return torch.stack([project(attention if n < 3 else mlp) for n, project in enumerate(self.cond_proj)])


@dataclass
class PassContext:
    """Everything that a block reads besides its tokens. All blocks of one pass share it.

    frame: the frame clock
    rotation: cosines, then sines, of the frame's tokens, [2,1,1,T,D/2]
    cond, ctrl: embedded noise level and controls, [1,1,M]
    prompt: prompt embeddings, [1,P,E]; None where the model takes none
    first_value: layer 0's raw values, [1,G,T,D]. Layer 0 fills them in, for the value residual of all layers.
    """

    frame: int
    rotation: Tensor
    cond: Tensor
    ctrl: Tensor
    prompt: Tensor | None
    first_value: Tensor | None = None


class SelfAttention(nn.Module):
    """Grouped-query attention: a frame's tokens attend to each other, in both directions, and to the cached frames."""

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
        q = self.q_rope(rotate(rms_norm(q), context.rotation))
        k = self.k_rope(rotate(rms_norm(k), context.rotation))
        keys, values = cache.see(context.frame, k, self._with_residual(v, context))
        y = self.attend(q, keys, values)
        if self.gate_proj is not None:
            gates = self.gate_proj(a[..., : self.n_heads])
            y = y * rearrange(gates.sigmoid(), "B T H -> B H T 1")
        out: Tensor = self.out_proj(rearrange(y, "B H T D -> B T (H D)"))
        return out

    def _with_residual(self, v: Tensor, context: PassContext) -> Tensor:
        """Mix in layer 0's raw values. The layer before would be wrong: its values are themselves a mixture."""
        if context.first_value is None:
            context.first_value = v
        return v if self.v_lamb is None else v + self.v_lamb * (context.first_value - v)


class CrossAttention(nn.Module):
    """The tokens attend to the prompt, at the prompt's width.

    Padding is not masked. Its embeddings are zero, so its keys score 0 and take their share of the softmax.
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

        Two products and a sum, not one product over the joined inputs. In bf16 they round differently: on golden/bf16
        this is bit-identical, and one product is off by 4.2e-3.
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
        attn_mod, mlp_mod = modulations(self.cond_head(context.cond))
        x = x + attn_mod.gate * self.attn(modulated_norm(x, attn_mod.scale, attn_mod.bias), context, cache)
        if self.prompt_cross_attn is not None and context.prompt is not None:
            x = x + self.prompt_cross_attn(rms_norm(x), rms_norm(context.prompt))
        if self.ctrl_mlpfusion is not None:
            x = x + self.ctrl_mlpfusion(rms_norm(x), rms_norm(context.ctrl))
        out: Tensor = x + mlp_mod.gate * self.mlp(modulated_norm(x, mlp_mod.scale, mlp_mod.bias))
        return out


class OutNorm(nn.Module):
    """The last norm, modulated by the noise level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """`x` [1,T,M], `cond` [1,1,M] -> [1,T,M]."""
        scale, bias = self.fc(silu(cond)).chunk(2, dim=-1)
        return modulated_norm(x, scale, bias)
