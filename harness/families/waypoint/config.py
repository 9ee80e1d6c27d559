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
}
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
        return None if value is None else _typed(value, typing.get_args(hint)[0], where)
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
    ctrl_conditioning: str | None
    ctrl_conditioning_period: int | None
    prompt_conditioning: str | None
    prompt_conditioning_period: int | None
    prompt_embedding_dim: int | None
    noise_conditioning: str | None
    scheduler_sigmas: tuple[float, ...]
    base_fps: int
    n_kv_heads: int = 0
    patch: tuple[int, int] = (1, 1)
    value_residual: bool = False
    gated_attn: bool = False
    global_attn_offset: int = 0
    # Training-time keys that official configs carry; inference does not read them.
    causal: bool = True
    ctrl_cond_dropout: float = 0.0
    prompt_cond_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
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
                self.ctrl_conditioning in (None, "mlp_fusion"),
                'ctrl_conditioning "mlp_fusion" or null',
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
                self.ctrl_conditioning is None or (self.ctrl_conditioning_period or 0) > 0,
                "ctrl_conditioning_period above 0 where there is control conditioning",
                repr(self.ctrl_conditioning_period),
            ),
            (
                len(sigmas) >= 2 and all(one > other for one, other in pairwise(sigmas)) and sigmas[-1] == 0.0,
                "scheduler_sigmas of at least 2 values that fall to 0",
                str(sigmas)[:80],
            ),
        ]

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
        period = self.global_attn_period
        return (layer - self.global_attn_offset % period) % period == 0

    def has_prompt(self, layer: int) -> bool:
        """Whether `layer` attends to the prompt."""
        return self.prompt_conditioning is not None and layer % (self.prompt_conditioning_period or 1) == 0

    def has_control(self, layer: int) -> bool:
        """Whether `layer` fuses the control embedding."""
        return self.ctrl_conditioning is not None and layer % (self.ctrl_conditioning_period or 1) == 0

    def ring_frames(self, layer: int) -> int:
        """R, the ring capacity of `layer` in frames."""
        return self.global_window if self.is_global(layer) else self.local_window

    def dilation(self, layer: int) -> int:
        """Every how many frames `layer` writes its ring."""
        return self.global_pinned_dilation if self.is_global(layer) else 1


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


@dataclass(frozen=True)
class WaypointGeometry:
    """The configs of the two models of a checkpoint."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig

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
