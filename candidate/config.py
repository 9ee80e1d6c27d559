"""The geometry that the native model is built from.

Legend: B batch (always 1), N frames per call (always 1), T tokens per frame, H query heads, G key/value heads, D head
width, M model width, C latent channels, P prompt tokens, E prompt width, h,w token grid, ph,pw patch, R ring capacity
in frames, S ring slots in use.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WaypointConfig:
    """Geometry of the world model. Every field bears the name and the meaning of the checkpoint's config key."""

    d_model: int
    n_heads: int
    n_kv_heads: int
    n_layers: int
    mlp_ratio: int
    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    local_window: int
    global_window: int
    global_attn_period: int
    global_attn_offset: int
    global_pinned_dilation: int
    value_residual: bool
    gated_attn: bool
    n_buttons: int
    ctrl_conditioning: str | None
    ctrl_conditioning_period: int | None
    prompt_conditioning: str | None
    prompt_conditioning_period: int | None
    prompt_embedding_dim: int | None

    @property
    def head_dim(self) -> int:
        """D."""
        return self.d_model // self.n_heads

    @property
    def tokens(self) -> int:
        """T, the tokens of one frame."""
        return self.height * self.width

    def is_global(self, layer: int) -> bool:
        """Whether `layer` has the long, dilated ring."""
        return (layer - self.global_attn_offset) % self.global_attn_period == 0

    @property
    def prompt_width(self) -> int:
        """E. Raises ValueError for a model that takes no prompt."""
        if self.prompt_embedding_dim is None:
            raise ValueError(
                "the model has no prompt width\n  found:    prompt_embedding_dim = None\n"
                "  expected: a width, where prompt_conditioning is set\n  do:       correct the config"
            )
        return self.prompt_embedding_dim

    @property
    def prompt_layers(self) -> tuple[int, ...]:
        """The layers that attend to the prompt."""
        return self._every(self.prompt_conditioning_period if self.prompt_conditioning else None)

    @property
    def control_layers(self) -> tuple[int, ...]:
        """The layers that fuse the control embedding."""
        return self._every(self.ctrl_conditioning_period if self.ctrl_conditioning else None)

    def _every(self, period: int | None) -> tuple[int, ...]:
        return tuple(range(0, self.n_layers, period)) if period else ()


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Geometry of the DCAE. Every field bears the name and the meaning of the checkpoint's config key."""

    channels: int
    latent_channels: int
    encoder_ch_0: int
    encoder_ch_max: int
    encoder_blocks_per_stage: tuple[int, ...]
    decoder_ch_0: int
    decoder_ch_max: int
    decoder_blocks_per_stage: tuple[int, ...]
    sample_size: tuple[int, int]
