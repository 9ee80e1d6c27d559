"""The world model: noisy latent, noise level, frame clock, prompt, controls and history -> velocity."""

import copy
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.reference.eager.generations import Generation, generation_of
from waypoint_parity.reference.eager.kv_cache import KVCache
from waypoint_parity.reference.eager.layers import (
    Block,
    ControlEmbedding,
    NoiseConditioner,
    NullEmbedding,
    OutNorm,
    PassContext,
)


class Transformer(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.rope_angles = nn.Identity()  # a probe
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))

    def forward(self, x: Tensor, context: PassContext, kv_cache: KVCache) -> Tensor:
        """`x` [1,T,M] -> [1,T,M]."""
        context.rotation = self.rope_angles(context.rotation)
        for block, ring in zip(self.blocks, kv_cache.rings(), strict=True):
            x = block(x, context, ring)
        return x


class WorldModel(nn.Module):
    """Waypoint's transformer. Its submodules have the names of the checkpoint's keys."""

    def __init__(self, config: TransformerConfig, generation: Generation | None = None) -> None:
        """`generation`: another one than that of the config."""
        super().__init__()
        self.config, self.generation = config, generation or generation_of(config)
        width = config.d_model
        self.denoise_step_emb = NoiseConditioner(width, exact=self.generation.exact_conditioner)
        self.ctrl_emb = ControlEmbedding(config.n_buttons, width * config.mlp_ratio, width, self.generation.scroll)
        self.ctrl_cfg = NullEmbedding(width) if config.ctrl_conditioning else None
        self.prompt_cfg = NullEmbedding(config.prompt_embedding_dim or 0) if config.prompt_conditioning else None
        self.patchify = nn.Conv2d(config.channels, width, config.patch, stride=config.patch, bias=False)
        self.transformer = Transformer(config)
        self.out_norm = OutNorm(width)
        self.unpatchify = nn.Linear(width, config.channels * config.patch[0] * config.patch[1])

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        timestamp: Tensor,
        prompt: Tensor | None,
        controls: Controls,
        kv_cache: KVCache,
    ) -> Tensor:
        """Velocity [1,1,C,h*ph,w*pw] of the latent `x` (same shape) at noise level `sigma` [1,1].

        `timestamp` [1,1] int64 is the frame clock; the rotation's clock runs `clock_ratio` times as fast. `prompt`
        [1,P,E] as given. The pass leaves this frame's keys and values in the tail of `kv_cache`; only its `commit`
        keeps them.
        """
        frame = int(timestamp)
        rotation = self.generation.rotation(self.config, frame * self.config.clock_ratio, x.dtype)
        context = PassContext(
            frame=frame,
            rotation=rotation.to(x.device),
            cond=self.denoise_step_emb(sigma),
            ctrl=self.ctrl_emb(controls.mouse, controls.button, controls.scroll),
            prompt=prompt,
        )
        tokens = rearrange(self.patchify(x[:, 0]), "B M h w -> B (h w) M")
        tokens = self.transformer(tokens, context, kv_cache)
        tokens = silu(self.out_norm(tokens, context.cond))
        return self._to_latent(self.unpatchify(tokens))

    def _to_latent(self, patches: Tensor) -> Tensor:
        """[1,T,C*ph*pw] -> [1,1,C,h*ph,w*pw]."""
        h, (ph, pw) = self.config.height, self.config.patch
        return rearrange(patches, "B (h w) (C ph pw) -> B 1 C (h ph) (w pw)", h=h, ph=ph, pw=pw)


def load_world_model(
    config: TransformerConfig,
    weights: Mapping[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    generation: Generation | None = None,
) -> WorldModel:
    """The model of `config` with `weights`, for inference, in `dtype` on `device`. `generation`: see WorldModel.

    The noise conditioner's weights go through `dtype` and back, unless it is exact: it computes in fp32, with rounded
    values. `NoiseConditioner.frequencies` says what measured that.
    """
    with torch.device("meta"):  # without memory or initial values: every weight comes from the checkpoint
        model = WorldModel(config, generation)
    model.load_state_dict(weights, strict=True, assign=True)
    exact = copy.deepcopy(model.denoise_step_emb) if model.generation.exact_conditioner else None
    model.to(device=device, dtype=dtype).requires_grad_(False)
    model.denoise_step_emb = model.denoise_step_emb.float() if exact is None else exact.to(device).float()
    return model.requires_grad_(False)
