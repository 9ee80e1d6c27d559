"""The geometry that the native model is built from.

Legend: B batch (always 1), N frames per call (always 1), T tokens per frame, H query heads, G key/value heads, D head
width, M model width, C latent channels, P prompt tokens, E prompt width, h,w token grid, ph,pw patch, R ring capacity
in frames, S ring slots in use.
"""

from dataclasses import dataclass

from waypoint_parity.candidate.generation import GENERATIONS, Generation


@dataclass(frozen=True, kw_only=True)
class WaypointConfig:
    """Geometry of the world model. Every field bears the name and the meaning of the checkpoint's config key."""

    model_type: str

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
    ctrl_conditioning: str | bool | None
    ctrl_conditioning_period: int | None
    prompt_conditioning: str | None
    prompt_conditioning_period: int | None
    prompt_embedding_dim: int | None
    rope_theta: float
    rope_nyquist_frac: float
    base_fps: int
    inference_fps: int
    temporal_compression: int

    @property
    def generation(self) -> Generation:
        """What else a model of this type computes in its own way."""
        return GENERATIONS[self.model_type]

    @property
    def clock_ratio(self) -> int:
        """How far the rotation's clock goes in a frame; that of the rings goes by 1."""
        return int(self.base_fps // (self.inference_fps / self.temporal_compression))

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


@dataclass(frozen=True, kw_only=True)
class TaehvConfig:
    """Geometry of the TAEHV: e and d0..d3, the channels between its stages; the sizes (H, W) of its pictures.

    `picture_size` is what comes in and goes out, `inner_size` what it computes on, 16 pixels a latent pixel.
    """

    latent_channels: int
    encoder_width: int
    decoder_widths: tuple[int, int, int, int]
    picture_size: tuple[int, int]
    inner_size: tuple[int, int]
