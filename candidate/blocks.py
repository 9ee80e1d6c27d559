"""One transformer block: self-attention, prompt attention, control fusion, MLP."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.attention import PromptAttention, PromptKeys, SelfAttention
from waypoint_parity.candidate.conditioning import adapt, perceptron, unit_rms
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.kv_cache import Window
from waypoint_parity.candidate.rope import Rotation


@dataclass(frozen=True)
class FramePlan:
    """What every pass over one frame shares: its rotation, and its window in the rings of each kind."""

    rotation: Rotation
    local: Window
    dilated: Window


class ControlFusion(nn.Module):
    """fc2(silu(Wx x + Wc c)): one control vector joins every token."""

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.x_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.c_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.fc2 = nn.Linear(config.d_model, config.d_model, bias=False)

    def read(self, control: Tensor) -> Tensor:
        """Wc c for the control embedding [1,1,M]; a frame needs it once."""
        projected: Tensor = self.c_proj(unit_rms(control))
        return projected

    def forward(self, x: Tensor, control: Tensor) -> Tensor:
        """`x` [1,T,M], control = Wc c [1,1,M] -> [1,T,M]."""
        out: Tensor = self.fc2(functional.silu(self.x_proj(unit_rms(x)) + control))
        return out


class Block(nn.Module):
    """x + gate * attention, + prompt attention, + control fusion, + gate * MLP."""

    def __init__(self, config: WaypointConfig, layer: int) -> None:
        super().__init__()
        self.dilated = config.is_global(layer)
        self.attn = SelfAttention(config)
        self.prompt_cross_attn = PromptAttention(config) if layer in config.prompt_layers else None
        self.ctrl_mlpfusion = ControlFusion(config) if layer in config.control_layers else None
        self.mlp = perceptron((config.d_model, config.d_model * config.mlp_ratio, config.d_model))
        # Sites.
        self.cond_head, self.out = nn.Identity(), nn.Identity()

    def forward(
        self,
        x: Tensor,
        v_first: Tensor | None,
        modulation: Tensor,
        prompt: PromptKeys | None,
        control: Tensor | None,
        ring: Tensor,
        frame: FramePlan,
    ) -> tuple[Tensor, Tensor]:
        """`x` [1,T,M], `modulation` [6,1,1,M] -> the block's output [1,T,M] and its raw attention values."""
        attn_scale, attn_bias, attn_gate, mlp_scale, mlp_bias, mlp_gate = self.cond_head(modulation).unbind(0)
        window = frame.dilated if self.dilated else frame.local
        attended, v = self.attn(adapt(x, attn_scale, attn_bias), v_first, frame.rotation, ring, window)
        x = torch.addcmul(x, attn_gate, attended)
        if self.prompt_cross_attn is not None:
            x = x + self.prompt_cross_attn(x, prompt)
        if self.ctrl_mlpfusion is not None:
            x = x + self.ctrl_mlpfusion(x, control)
        x = torch.addcmul(x, mlp_gate, self.mlp(adapt(x, mlp_scale, mlp_bias)))
        return self.out(x), v
