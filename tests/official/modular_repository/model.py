"""The transformer of the tests' repository: a model of Waypoint under the interface of a diffusers component.

It is the reference's, or the official package's where the config says so. The signature names the config's keys.
"""

from typing import Any
from unittest.mock import patch

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.reference.eager.kv_cache import KVCache, RingCache
from waypoint_parity.reference.eager.model import WorldModel

# While diffusers builds a model it puts a function in this one's place that gives weights no memory.
REGISTER_PARAMETER = nn.Module.register_parameter


class LayerCache:
    """A layer's ring and tail as one buffer."""

    def __init__(self, ring: RingCache) -> None:
        self._ring = ring

    @property
    def kv(self) -> Tensor:
        return torch.cat([self._ring.ring, self._ring.tail], dim=3)

    @property
    def written(self) -> Tensor:
        return torch.cat([self._ring.ring_written, self._ring.ring_written.new_ones(self._ring.tokens)])


class Cache:
    """The reference's cache under the interface of the official one."""

    def __init__(self, config: TransformerConfig, like: Tensor) -> None:
        self.frozen = True
        self.rings = KVCache(config)
        self.rings.reset(like.device, like.dtype)
        self.layers = [LayerCache(ring) for ring in self.rings.rings()]

    def set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen


class Eager:
    """The reference's model, called as the official one."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        self.model = WorldModel(config)

    def new_cache(self, like: Tensor) -> Any:
        return Cache(self.config, like)

    def __call__(self, x: Tensor, sigma: Tensor, kv_cache: Any, **given: Any) -> Tensor:
        controls = Controls(**{name: given[name].view(-1) for name in ("button", "mouse", "scroll")})
        velocity: Tensor = self.model(x, sigma, given["frame_timestamp"], given["prompt_emb"], controls, kv_cache.rings)
        if not kv_cache.frozen:
            kv_cache.rings.commit(int(given["frame_timestamp"]))
        return velocity


class Official:
    """The official package's model."""

    def __init__(self, config: TransformerConfig) -> None:
        from waypoint_parity.reference.world_engine.engine import model_config
        from waypoint_parity.reference.world_engine.package import import_package

        self.package = import_package()
        self.config = self.package.omegaconf.OmegaConf.create(model_config(config))
        # The package computes with weights of its rotation as it builds it.
        with patch.object(nn.Module, "register_parameter", REGISTER_PARAMETER):
            self.model = self.package.model.WorldModel(self.config)

    def new_cache(self, like: Tensor) -> Any:
        return self.package.model.StaticKVCache(self.config, batch_size=1, dtype=like.dtype).to(like.device)

    def __call__(self, x: Tensor, sigma: Tensor, **given: Any) -> Tensor:
        velocity: Tensor = self.model(x, sigma, **given)
        return velocity


class ToyWorldModel(ModelMixin, ConfigMixin):
    _keep_in_fp32_modules = ["denoise_step_emb"]  # noqa: RUF012 - a list, as diffusers declares it

    @register_to_config
    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_layers: int,
        mlp_ratio: int,
        channels: int,
        height: int,
        width: int,
        tokens_per_frame: int,
        n_frames: int,
        local_window: int,
        global_window: int,
        global_attn_period: int,
        global_pinned_dilation: int,
        n_buttons: int,
        ctrl_conditioning: str,
        ctrl_conditioning_period: int,
        prompt_conditioning: str,
        prompt_conditioning_period: int,
        prompt_embedding_dim: int,
        noise_conditioning: str,
        scheduler_sigmas: list[float],
        base_fps: int,
        n_kv_heads: int,
        patch: list[int],
        value_residual: bool,
        gated_attn: bool,
        global_attn_offset: int,
        causal: bool,
        ctrl_cond_dropout: float,
        prompt_cond_dropout: float,
        official: bool = False,
    ) -> None:
        super().__init__()
        keys = {key: value for key, value in self.config.items() if key != "official"}
        self.geometry = TransformerConfig.read(keys, source="transformer/config.json")
        self.inner = Official(self.geometry) if official else Eager(self.geometry)
        # Its parts are this model's parts, under the official names.
        for name, part in self.inner.model.named_children():
            self.add_module(name, part)

    def new_cache(self) -> Any:
        return self.inner.new_cache(next(self.patchify.parameters()))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        frame_timestamp: Tensor,
        prompt_emb: Tensor | None = None,
        prompt_pad_mask: Tensor | None = None,
        mouse: Tensor | None = None,
        button: Tensor | None = None,
        scroll: Tensor | None = None,
        kv_cache: Any = None,
    ) -> Tensor:
        return self.inner(
            x,
            sigma,
            frame_timestamp=frame_timestamp,
            prompt_emb=prompt_emb,
            prompt_pad_mask=prompt_pad_mask,
            mouse=mouse,
            button=button,
            scroll=scroll,
            kv_cache=kv_cache,
        )

    def apply_inference_patches(self) -> None:
        self.patched = torch.tensor(True)
