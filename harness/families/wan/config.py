"""Typed configs of a checkpoint, read from either layout. Unknown keys are refused, nothing is guessed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from waypoint_parity.harness.errors import UserError

# What the published autoencoder's latents are normalised by, channel by channel.
LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
# Tokens that every prompt is padded to. No config of the diffusers layout says it.
TEXT_LENGTH = 512
# A latent's value stands for so many pictures and pixels, but for the first picture, which has a latent of its own.
PICTURES, PIXELS = 4, 8
# Which of the decoder's three steps up in size also double the number of pictures.
TIME_DOUBLES = (True, True, False)
WIDTHS, BLOCKS = (1, 2, 4, 4), 2
_Read = TypeVar("_Read", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class WanTransformer:
    """The diffusion transformer, by the names of the official config."""

    dim: int
    ffn_dim: int
    freq_dim: int
    num_heads: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = 4096
    text_len: int = TEXT_LENGTH
    eps: float = 1e-6
    patch_size: tuple[int, int, int] = (1, 2, 2)

    @property
    def patch_values(self) -> int:
        """Values that the head gives for a token."""
        return self.out_dim * math.prod(self.patch_size)


@dataclass(frozen=True, kw_only=True)
class WanAutoencoder:
    """The causal autoencoder. `base_dim` is the width of its outermost layers."""

    base_dim: int = 96
    z_dim: int = 16
    latents_mean: tuple[float, ...] = LATENTS_MEAN
    latents_std: tuple[float, ...] = LATENTS_STD


@dataclass(frozen=True)
class WanGeometry:
    """Both configs of a checkpoint."""

    transformer: WanTransformer
    autoencoder: WanAutoencoder

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The config of every component as plain values."""
        return {"transformer": dataclasses.asdict(self.transformer), "vae": dataclasses.asdict(self.autoencoder)}


class _Official(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """config.json of the official layout. It does not say text_dim and patch_size, which are the same in all models."""

    model_type: str
    dim: int
    ffn_dim: int
    freq_dim: int
    num_heads: int
    num_layers: int
    in_dim: int
    out_dim: int
    eps: float
    text_len: int = TEXT_LENGTH


class _Diffusers(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """transformer/config.json of the diffusers layout."""

    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    freq_dim: int
    num_layers: int
    in_channels: int
    out_channels: int
    text_dim: int
    eps: float
    patch_size: tuple[int, int, int]
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    rope_max_seq_len: int = 1024
    added_kv_proj_dim: int | None = None
    image_dim: int | None = None
    pos_embed_seq_len: int | None = None
    window_size: Sequence[int] | None = None


class _DiffusersAutoencoder(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """vae/config.json of the diffusers layout."""

    base_dim: int
    z_dim: int
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    dim_mult: tuple[int, ...] = WIDTHS
    num_res_blocks: int = BLOCKS
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = tuple(reversed(TIME_DOUBLES))
    dropout: float = 0.0
    decoder_base_dim: int | None = None
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = PICTURES
    scale_factor_spatial: int = PIXELS
    clip_output: bool = True


def official_transformer(values: Mapping[str, Any], text_dim: int, source: str) -> WanTransformer:
    """The config of the official layout; the width of the text is read off the weights."""
    read = _read(values, _Official, source)
    _refuse(source, "text-to-video", model_type=(read.model_type, "t2v"))
    told = {key: value for key, value in msgspec.to_builtins(read).items() if key != "model_type"}
    return _checked(WanTransformer(text_dim=text_dim, **told), source)


def diffusers_transformer(values: Mapping[str, Any], source: str) -> WanTransformer:
    """The config of the diffusers layout."""
    read = _read(values, _Diffusers, source)
    _refuse(
        source,
        "Wan 2.1 text-to-video",
        cross_attn_norm=(read.cross_attn_norm, True),
        qk_norm=(read.qk_norm, "rms_norm_across_heads"),
        added_kv_proj_dim=(read.added_kv_proj_dim, None),
        image_dim=(read.image_dim, None),
        pos_embed_seq_len=(read.pos_embed_seq_len, None),
    )
    config = WanTransformer(
        dim=read.num_attention_heads * read.attention_head_dim,
        ffn_dim=read.ffn_dim,
        freq_dim=read.freq_dim,
        num_heads=read.num_attention_heads,
        num_layers=read.num_layers,
        in_dim=read.in_channels,
        out_dim=read.out_channels,
        text_dim=read.text_dim,
        eps=read.eps,
        patch_size=read.patch_size,
    )
    return _checked(config, source)


def diffusers_autoencoder(values: Mapping[str, Any], source: str) -> WanAutoencoder:
    """The config of the diffusers layout."""
    read = _read(values, _DiffusersAutoencoder, source)
    _refuse(
        source,
        "the autoencoder of Wan 2.1",
        dim_mult=(read.dim_mult, WIDTHS),
        num_res_blocks=(read.num_res_blocks, BLOCKS),
        attn_scales=(read.attn_scales, ()),
        temperal_downsample=(read.temperal_downsample, tuple(reversed(TIME_DOUBLES))),
        decoder_base_dim=(read.decoder_base_dim or read.base_dim, read.base_dim),
        is_residual=(read.is_residual, False),
        patch_size=(read.patch_size, None),
        channels=((read.in_channels, read.out_channels), (3, 3)),
        scale_factors=((read.scale_factor_temporal, read.scale_factor_spatial), (PICTURES, PIXELS)),
        latents=((len(read.latents_mean), len(read.latents_std)), (read.z_dim, read.z_dim)),
    )
    return WanAutoencoder(
        base_dim=read.base_dim, z_dim=read.z_dim, latents_mean=read.latents_mean, latents_std=read.latents_std
    )


def official_config(config: WanTransformer) -> dict[str, Any]:
    """config.json of the official layout."""
    names = [field for field in _Official.__struct_fields__ if field != "model_type"]
    return {"_class_name": "WanModel", "model_type": "t2v"} | {name: getattr(config, name) for name in names}


def diffusers_configs(geometry: WanGeometry) -> dict[str, dict[str, Any]]:
    """config.json of transformer and vae in the diffusers layout."""
    config, autoencoder = geometry.transformer, geometry.autoencoder
    transformer = _Diffusers(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.dim // config.num_heads,
        ffn_dim=config.ffn_dim,
        freq_dim=config.freq_dim,
        num_layers=config.num_layers,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        eps=config.eps,
        patch_size=config.patch_size,
    )
    vae = _DiffusersAutoencoder(
        base_dim=autoencoder.base_dim,
        z_dim=autoencoder.z_dim,
        latents_mean=autoencoder.latents_mean,
        latents_std=autoencoder.latents_std,
    )
    own = {"transformer": ("window_size",), "vae": ("clip_output",)}
    written = {"transformer": ("WanTransformer3DModel", transformer), "vae": ("AutoencoderKLWan", vae)}
    return {
        name: {"_class_name": cls}
        | {key: value for key, value in msgspec.to_builtins(told).items() if key not in own[name]}
        for name, (cls, told) in written.items()
    }


def _read(values: Mapping[str, Any], kind: type[_Read], source: str) -> _Read:
    """A config file's values. Keys that begin with "_" are ignored."""
    try:
        return msgspec.convert({key: value for key, value in values.items() if not key.startswith("_")}, kind)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{source}: is not a config of Wan 2.1",
            found=str(error),
            expected=f"the keys {', '.join(kind.__struct_fields__)}",
            do="take the config.json that was saved with these weights",
        ) from error


def _refuse(source: str, what: str, **pairs: tuple[Any, Any]) -> None:
    """Raise UserError for a model that the family does not cover."""
    if other := [f"{name} {found!r}" for name, (found, wanted) in pairs.items() if found != wanted]:
        raise UserError(
            f"{source}: is not {what}",
            found=", ".join(other),
            expected=", ".join(f"{name} {wanted!r}" for name, (found, wanted) in pairs.items() if found != wanted),
            do="name a checkpoint of Wan 2.1 text-to-video",
        )


def _checked(config: WanTransformer, source: str) -> WanTransformer:
    sizes = {name: value for name, value in dataclasses.asdict(config).items() if isinstance(value, int)}
    wrong = [f"{name} {value}" for name, value in sizes.items() if not 0 < value <= 2**20]
    if not wrong and (config.dim % config.num_heads or (config.dim // config.num_heads) % 2):
        wrong = [f"dim {config.dim}, num_heads {config.num_heads}"]
    if wrong or config.patch_size != (1, 2, 2) or config.freq_dim % 2:
        raise UserError(
            f"{source}: the sizes are none of a model",
            found=", ".join(wrong) or f"patch_size {config.patch_size}, freq_dim {config.freq_dim}",
            expected="positive sizes, heads of one even width, an even freq_dim, and patches of 1, 2, 2",
            do="take the config.json that was saved with these weights",
        )
    return config
