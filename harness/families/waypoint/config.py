"""Typed configs of a checkpoint. Unknown keys are refused, nothing is guessed."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from waypoint_parity.harness.errors import UserError, listed

# The largest number in fp32.
_MOST_FLOAT = 3.4028234663852886e38
_SIZE, _FRAMES = (1, 2**20), (1, 2**31 - 1)
FIRST, SECOND = "waypoint-1", "waypoint-1.5"
_TRANSFORMER_RANGES = {
    "d_model": _SIZE,
    "n_heads": _SIZE,
    "n_kv_heads": _SIZE,
    "n_layers": (1, 1000),
    "mlp_ratio": _SIZE,
    "channels": _SIZE,
    "height": _SIZE,
    "width": _SIZE,
    "patch": _SIZE,
    "n_frames": _FRAMES,
    "local_window": _SIZE,
    "global_window": _SIZE,
    "global_attn_period": _SIZE,
    "global_pinned_dilation": _SIZE,
    "n_buttons": (0, 2**20),
    "base_fps": _SIZE,
    "inference_fps": _SIZE,
    "temporal_compression": _SIZE,
}
_TAEHV_RANGES = {
    "latent_channels": _SIZE,
    "encoder_width": _SIZE,
    "decoder_widths": _SIZE,
    "inner_size": _SIZE,
    "picture_size": _SIZE,
}
# With auto_aspect_ratio: height and width of the pictures, by those of what the autoencoder computes with.
_WIDE_SCREEN = {(512, 1024): (720, 1280), (256, 512): (360, 640)}
# Where the stages of a TAEHV begin in its lists of layers.
TAEHV_ENCODER_STAGES, TAEHV_DECODER_STAGES = (2, 7, 12), (3, 9, 15)
# Pixels to a side of a latent's value.
_TAEHV_SCALE = 16
_AUTOENCODER_RANGES = {
    "channels": (3, 3),
    "latent_channels": _SIZE,
    "encoder_ch_0": _SIZE,
    "encoder_ch_max": _SIZE,
    "encoder_blocks_per_stage": (0, 1000),
    "decoder_ch_0": _SIZE,
    "decoder_ch_max": _SIZE,
    "decoder_blocks_per_stage": (0, 1000),
    "sample_size": _SIZE,
}


@dataclass(frozen=True, kw_only=True)
class _Config:
    """Reads itself from the mapping that a config file holds."""

    @classmethod
    def read(cls, values: Mapping[str, Any], *, source: str) -> Self:
        """Build the config from `values`, as found in the file `source`.

        Keys beginning with "_" are ignored. Raises UserError for any other unknown key, for a required key that is
        absent and for a value of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        absent = sorted(required - given.keys())
        if unknown := sorted(given.keys() - fields.keys()):
            if any("quant" in key for key in unknown):
                do = "take the checkpoint that is not quantised; without the key its weights would be misread"
            elif absent:
                do = "take the config of this model, saved with these weights; this one is of another"
            else:
                do = "remove the keys, or use a release of waypoint-parity that knows them"
            raise UserError(
                f"{source}: the config has unknown keys",
                found=listed(unknown),
                expected=f"only {listed(sorted(fields), most=len(fields))}",
                do=do,
            )
        if absent:
            raise UserError(
                f"{source}: the config lacks required keys",
                found=listed(sorted(given), most=len(given)) or "an empty config",
                expected=f"also {listed(absent)}",
                do="take the config.json that was saved with these weights",
            )
        hints = typing.get_type_hints(cls)
        typed = {name: _typed(value, hints[name], f"{source}: {name}") for name, value in given.items()}
        try:
            return cls(**typed)
        except UserError as error:
            what = f"{source}: {error.what}"
            raise UserError(what, found=error.found, expected=error.expected, do=error.do) from None

    def to_json(self) -> dict[str, Any]:
        """The config as plain values, in field order."""
        return dataclasses.asdict(self)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`: a JSON list becomes a tuple, an int where a float belongs becomes a float."""
    if typing.get_origin(hint) is types.UnionType:
        if value is None:
            return None
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return _typed(value, next((kind for kind in kinds if type(value) is kind), kinds[0]), where)
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise _mistyped(value, "a list", where)
        if element[1] is not Ellipsis and len(value) != len(element):
            raise _mistyped(value, f"{len(element)} values", where)
        return tuple(_typed(item, element[0], where) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= _MOST_FLOAT:
            raise _mistyped(value, "a finite number", where)
        return float(value)
    if not isinstance(value, hint if isinstance(hint, type) else object) or (hint is int and isinstance(value, bool)):
        raise _mistyped(value, getattr(hint, "__name__", str(hint)), where)
    return value


def _mistyped(value: Any, expected: str, where: str) -> UserError:
    return UserError(
        f"{where} has a value of the wrong type",
        found=repr(value)[:80],
        expected=expected,
        do="correct the config file",
    )


def _check_ranges(values: Mapping[str, Any], ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise UserError, naming the key, for a number that no model has: none, or more than any machine holds."""
    for name, (least, most) in ranges.items():
        value = values[name]
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:
                raise UserError(
                    f"{name} is out of range",
                    found=str(number)[:80],
                    expected=f"from {least} to {most}",
                    do="correct the config, or take the one that was saved with these weights",
                )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(_Config):
    """Geometry and schedule of the world model, by the keys of the official config.json.

    The defaults are the values of keys that a config may leave out; every other key is required. `height` and `width`
    count tokens: the latent is [channels, height * patch[0], width * patch[1]].
    """

    d_model: int
    n_heads: int
    n_layers: int
    mlp_ratio: int
    channels: int
    height: int
    width: int
    tokens_per_frame: int
    n_frames: int
    local_window: int
    global_window: int
    global_attn_period: int
    global_pinned_dilation: int
    n_buttons: int
    ctrl_conditioning: str | bool | None
    ctrl_conditioning_period: int | None
    prompt_conditioning: str | None
    prompt_conditioning_period: int | None = None
    prompt_embedding_dim: int | None = None
    noise_conditioning: str | None
    scheduler_sigmas: tuple[float, ...]
    base_fps: int
    n_kv_heads: int = 0
    patch: tuple[int, int] = (1, 1)
    value_residual: bool = False
    gated_attn: bool = False
    global_attn_offset: int | None = None
    # Waypoint 1.5 alone sets these.
    model_type: str = FIRST
    inference_fps: int = 0
    temporal_compression: int = 1
    rope_impl: str = "ortho"
    rope_theta: float = 10000.0
    rope_nyquist_frac: float = 0.8
    taehv_ae: bool = False
    auto_aspect_ratio: bool = True
    moe: bool = False
    # Training-time keys that official configs carry; inference does not read them.
    causal: bool = True
    ctrl_cond_dropout: float = 0.0
    prompt_cond_dropout: float = 0.0

    def __post_init__(self) -> None:
        filled = {"n_kv_heads": self.n_heads, "inference_fps": self.base_fps}
        for name, value in filled.items():
            if getattr(self, name) == 0:
                object.__setattr__(self, name, value)
        if self.global_attn_offset is None and self.model_type == FIRST:
            object.__setattr__(self, "global_attn_offset", 0)
        _check_ranges(vars(self), _TRANSFORMER_RANGES)
        for holds, rule, found in self._rules():
            if not holds:
                raise UserError(
                    f"{rule} does not hold",
                    found=found,
                    expected=rule,
                    do="correct the config; these keys describe one geometry and must agree",
                )

    def _rules(self) -> list[tuple[bool, str, str]]:
        """(holds, rule, found) of every relation between keys that the weights and the caches rely on."""
        head_dim, remainder = divmod(self.d_model, self.n_heads)
        sigmas = self.scheduler_sigmas
        return [
            *self._rules_of_its_generation(),
            (remainder == 0, "d_model divisible by n_heads", f"{self.d_model} and {self.n_heads}"),
            (head_dim % 16 == 0 and head_dim >= 32, "head width a multiple of 16, at least 32", str(head_dim)),
            (
                self.n_heads % self.n_kv_heads == 0,
                "n_heads divisible by n_kv_heads",
                f"{self.n_heads}, {self.n_kv_heads}",
            ),
            (
                self.tokens_per_frame == self.height * self.width,
                "tokens_per_frame = height * width",
                f"{self.tokens_per_frame} and {self.height} * {self.width}",
            ),
            (
                self.global_window % self.global_pinned_dilation == 0,
                "global_window divisible by global_pinned_dilation",
                f"{self.global_window} and {self.global_pinned_dilation}",
            ),
            (self.noise_conditioning == "wan", 'noise_conditioning = "wan"', repr(self.noise_conditioning)),
            (
                self.ctrl_conditioning in (None, False, True, "mlp_fusion"),
                'ctrl_conditioning "mlp_fusion", true, false or null',
                repr(self.ctrl_conditioning),
            ),
            (
                self.prompt_conditioning in (None, "cross_attention"),
                'prompt_conditioning "cross_attention" or null',
                repr(self.prompt_conditioning),
            ),
            (
                self.prompt_conditioning is None
                or ((self.prompt_conditioning_period or 0) > 0 and (self.prompt_embedding_dim or 0) > 0),
                "prompt_conditioning_period and prompt_embedding_dim above 0 where there is a prompt",
                f"{self.prompt_conditioning_period} and {self.prompt_embedding_dim}",
            ),
            (
                self.prompt_conditioning is None or (self.prompt_embedding_dim or 0) % head_dim == 0,
                "prompt_embedding_dim a multiple of the head width",
                f"{self.prompt_embedding_dim} and {head_dim}",
            ),
            (
                not self.ctrl_conditioning
                or (self.is_waypoint_15 and self.ctrl_conditioning_period is None)
                or (self.ctrl_conditioning_period or 0) > 0,
                "ctrl_conditioning_period above 0 where there is control conditioning",
                repr(self.ctrl_conditioning_period),
            ),
            (
                len(sigmas) >= 2 and all(one > other for one, other in pairwise(sigmas)) and sigmas[-1] == 0.0,
                "scheduler_sigmas of at least 2 values that fall to 0",
                str(sigmas)[:80],
            ),
        ]

    def _rules_of_its_generation(self) -> list[tuple[bool, str, str]]:
        """The same of the keys that Waypoint 1.5 came with."""
        told = [] if self.is_waypoint_15 else [name for name in _SECONDS if getattr(self, name) != _SECONDS[name]]
        told += [] if self.is_waypoint_15 or self.inference_fps == self.base_fps else ["inference_fps"]
        return [
            (self.model_type in (FIRST, SECOND), f'model_type "{FIRST}" or "{SECOND}"', repr(self.model_type)),
            (self.rope_theta > 0, "rope_theta above 0", str(self.rope_theta)),
            (self.rope_nyquist_frac > 0, "rope_nyquist_frac above 0", str(self.rope_nyquist_frac)),
            (self.rope_impl == "ortho", 'rope_impl = "ortho"', repr(self.rope_impl)),
            (not self.moe, "moe = false", repr(self.moe)),
            (self.taehv_ae or not self.is_waypoint_15, f'taehv_ae for model_type "{SECOND}"', repr(self.taehv_ae)),
            (not told, f'{listed(told)} for model_type "{SECOND}" alone', repr(self.model_type)),
            (
                self.clock_ratio >= 1,
                "base_fps of at least inference_fps / temporal_compression",
                f"{self.base_fps}, {self.inference_fps} and {self.temporal_compression}",
            ),
            (
                not self.is_waypoint_15 or self.prompt_conditioning is None,
                f'prompt_conditioning null for model_type "{SECOND}"',
                repr(self.prompt_conditioning),
            ),
            (self.global_attn_offset is not None, f'global_attn_offset for model_type "{SECOND}"', "none"),
        ]

    def to_json(self) -> dict[str, Any]:
        """The config as plain values, in field order. Waypoint 1 does not have the keys of Waypoint 1.5."""
        values = super().to_json()
        if self.is_waypoint_15:
            return values
        return {name: value for name, value in values.items() if name != "inference_fps" and name not in _SECONDS}

    @property
    def is_waypoint_15(self) -> bool:
        """Whether the model is of the second generation."""
        return self.model_type == SECOND

    @property
    def clock_ratio(self) -> int:
        """What the rings' clock is multiplied by for the rotation."""
        return int(self.base_fps // (self.inference_fps / self.temporal_compression))

    @property
    def head_dim(self) -> int:
        """D, the width of one head."""
        return self.d_model // self.n_heads

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h*ph, w*pw] of one frame's latent."""
        return self.channels, self.height * self.patch[0], self.width * self.patch[1]

    def is_global(self, layer: int) -> bool:
        """Whether `layer` keeps the long, dilated ring."""
        return (layer - (self.global_attn_offset or 0)) % self.global_attn_period == 0

    def has_prompt(self, layer: int) -> bool:
        """Whether `layer` attends to the prompt."""
        return self.prompt_conditioning is not None and layer % (self.prompt_conditioning_period or 1) == 0

    def has_control(self, layer: int) -> bool:
        """Whether `layer` fuses the control embedding."""
        period = self.ctrl_conditioning_period if self.ctrl_conditioning else None
        return period is not None and layer % period == 0

    def ring_frames(self, layer: int) -> int:
        """R, the ring capacity of `layer` in frames."""
        return self.global_window if self.is_global(layer) else self.local_window

    def dilation(self, layer: int) -> int:
        """Every how many frames `layer` writes its ring."""
        return self.global_pinned_dilation if self.is_global(layer) else 1


# Keys that came with Waypoint 1.5, with what they are of an older model.
_SECONDS = {
    field.name: field.default
    for field in dataclasses.fields(TransformerConfig)
    if field.name in ("model_type", "temporal_compression", "taehv_ae", "auto_aspect_ratio", "moe")
    or field.name.startswith("rope_")
}


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(_Config):
    """Geometry of the DCAE, by the keys of the official config.json."""

    channels: int
    latent_channels: int
    encoder_ch_0: int
    encoder_ch_max: int
    encoder_blocks_per_stage: tuple[int, ...]
    decoder_ch_0: int
    decoder_ch_max: int
    decoder_blocks_per_stage: tuple[int, ...]
    sample_size: tuple[int, int] = (360, 640)
    skip_logvar: bool = False
    # No published autoencoder scales or shifts its latents, and no implementation here does.
    scale_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_ranges(vars(self), _AUTOENCODER_RANGES)
        if (self.scale_factor, self.shift_factor) != (1.0, 0.0):
            raise UserError(
                "latents are neither scaled nor shifted",
                found=f"scale_factor {self.scale_factor}, shift_factor {self.shift_factor}",
                expected="scale_factor 1.0, shift_factor 0.0",
                do="correct the config; 0.18215 belongs to another model's autoencoder",
            )


@dataclass(frozen=True, kw_only=True)
class TaehvConfig(_Config):
    """Geometry of the TAEHV, the autoencoder of Waypoint 1.5: four pictures to a latent and back, with a memory.

    `decoder_widths` are those before the three stages and after them; they and `encoder_width` are read off the
    weights. `picture_size` and `inner_size`, height and width, are of the pictures and of what the convolutions see.
    """

    latent_channels: int
    encoder_width: int
    decoder_widths: tuple[int, int, int, int]
    inner_size: tuple[int, int]
    picture_size: tuple[int, int]
    patch_size: int = 2
    image_channels: int = 3
    encoder_time_downscale: tuple[bool, ...] = (True, True, False)
    decoder_time_upscale: tuple[bool, ...] = (False, True, True)
    decoder_space_upscale: tuple[bool, ...] = (True, True, True)

    def __post_init__(self) -> None:
        _check_ranges(vars(self), _TAEHV_RANGES)
        for field in dataclasses.fields(self):
            if field.default is not dataclasses.MISSING and getattr(self, field.name) != field.default:
                raise UserError(
                    f"{field.name} of another autoencoder",
                    found=str(getattr(self, field.name)),
                    expected=str(field.default),
                    do="take the config that was saved with these weights",
                )


def taehv_sizes(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """`inner_size` and `picture_size` of the TAEHV of a model.

    Raises UserError where pictures are to be resized to 16:9, and their size is not defined.
    """
    _, height, width = config.latent_shape
    inner = height * _TAEHV_SCALE, width * _TAEHV_SCALE
    picture = _WIDE_SCREEN.get(inner) if config.auto_aspect_ratio else inner
    if picture is None:
        raise UserError(
            "auto_aspect_ratio has no picture size for this latent",
            found=f"latents of {height} x {width}",
            expected=listed([f"{h // _TAEHV_SCALE} x {w // _TAEHV_SCALE}" for h, w in _WIDE_SCREEN]),
            do="set auto_aspect_ratio to false, or correct height, width and patch",
        )
    return {"inner_size": inner, "picture_size": picture}


@dataclass(frozen=True)
class WaypointGeometry:
    """The configs of the two models of a checkpoint."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig | TaehvConfig

    def __post_init__(self) -> None:
        here, there = self.transformer.channels, self.autoencoder.latent_channels
        if here != there:
            raise UserError(
                "the configs of transformer and autoencoder do not belong together",
                found=f"latents of {here} channels, and an autoencoder for {there}",
                expected="channels of the one as latent_channels of the other",
                do="take both from one checkpoint",
            )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The config of every component as plain values."""
        return {"transformer": self.transformer.to_json(), "vae": self.autoencoder.to_json()}
