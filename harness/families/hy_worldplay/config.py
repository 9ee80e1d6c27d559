"""Typed configs of a checkpoint. Unknown keys of the transformer's are refused, nothing is guessed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from waypoint_parity.harness.errors import UserError

# What the vendor's code has as constants: latents of a chunk, their size, tokens of a latent, padded prompt tokens.
CHUNK, SIZE, TOKENS, TEXT_LENGTH = 4, (44, 80), 880, 512
# Latents of history from which the vendor selects; before, the memory holds all of them.
WINDOW = 16
# The level of noise that the memory is said to have: stabilisation level 15, less 1.
MEMORY_TIMESTEP = 14.0
# Timesteps of the distilled model.
TIMESTEPS = (1000.0, 960.0, 888.8889, 727.2728)
TRAIN_STEPS = 1000


class Transformer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """wan_transformer/config.json, by the names of diffusers."""

    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    freq_dim: int
    ffn_dim: int
    num_layers: int
    eps: float = 1e-6
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    patch_size: tuple[int, int, int] = (1, 2, 2)
    rope_max_seq_len: int = 1024
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    pos_embed_seq_len: int | None = None

    @property
    def dim(self) -> int:
        """Width of the model."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class HyGeometry:
    """Both configs; the autoencoder's is that of diffusers' AutoencoderKLWan, as it stands."""

    transformer: Transformer
    autoencoder: Mapping[str, Any]

    @property
    def up_blocks(self) -> int:
        """Blocks of the decoder between its middle and its last layer."""
        return len(self.autoencoder["dim_mult"])

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The config of every component as plain values."""
        return {"transformer": msgspec.to_builtins(self.transformer), "vae": dict(self.autoencoder)}


def transformer_config(values: Mapping[str, Any], source: str) -> Transformer:
    """The config in a file. Keys that begin with "_" are ignored."""
    try:
        read = msgspec.convert({key: value for key, value in values.items() if key[:1] != "_"}, Transformer)
    except msgspec.ValidationError as error:
        raise _refused(source, str(error), f"the keys {', '.join(Transformer.__struct_fields__)}") from error
    sizes = {name: value for name, value in msgspec.to_builtins(read).items() if type(value) is int}
    wrong = [f"{name} {value}" for name, value in sizes.items() if not 0 < value <= 2**20]
    wrong += [f"{name} {getattr(read, name)}" for name, value in _FIXED.items() if getattr(read, name) != value]
    # The camera's matrices turn four numbers of a head at once.
    wrong += [f"attention_head_dim {read.attention_head_dim}"] if read.attention_head_dim % 4 else []
    wrong += [f"freq_dim {read.freq_dim}"] if read.freq_dim % 2 else []
    if wrong:
        raise _refused(
            source, ", ".join(wrong), "positive sizes, heads of a width that 4 divides, and the vendor's form"
        )
    return read


def autoencoder_config(values: Mapping[str, Any], source: str, channels: int) -> dict[str, Any]:
    """The config of an AutoencoderKLWan whose latents have so many channels."""
    read = {key: value for key, value in values.items() if key[:1] != "_"}
    lists = [read.get(name) for name in ("dim_mult", "latents_mean", "latents_std")]
    if read.get("z_dim") != channels or not all(isinstance(each, list) and each for each in lists):
        found = f"z_dim {read.get('z_dim')}, dim_mult {read.get('dim_mult')}"
        raise _refused(source, found, f"an AutoencoderKLWan with z_dim {channels}, dim_mult, latents_mean, latents_std")
    return read


# What no published checkpoint has otherwise.
_FIXED = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "patch_size": (1, 2, 2),
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}


def _refused(source: str, found: str, expected: str) -> UserError:
    return UserError(
        f"{source}: is not a config of HY-WorldPlay WAN-5B",
        found=found,
        expected=expected,
        do="take the config.json that was published with these weights",
    )


def transformer_keys(config: Transformer) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the transformer's weights, by the vendor's names."""
    dim, embedder = config.dim, "condition_embedder"
    keys = {
        **_layer("patch_embedding", dim, config.in_channels, *config.patch_size),
        **_layer(f"{embedder}.time_proj", 6 * dim, dim),
        **_layer("proj_out", config.out_channels * math.prod(config.patch_size), dim),
        "scale_shift_table": (1, 2, dim),
    }
    for name, width in (("time", config.freq_dim), ("action", config.freq_dim), ("text", config.text_dim)):
        keys |= _layer(f"{embedder}.{name}_embedder.linear_1", dim, width)
        keys |= _layer(f"{embedder}.{name}_embedder.linear_2", dim, dim)
    for number in range(config.num_layers):
        block = f"blocks.{number}"
        for attention in ("attn1", "attn2"):
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                keys |= _layer(f"{block}.{attention}.{name}", dim, dim)
            keys |= {f"{block}.{attention}.norm_{name}.weight": (dim,) for name in "qk"}
        keys |= _layer(f"{block}.attn1.to_out_prope.0", dim, dim)
        keys |= {f"{block}.norm2.weight": (dim,), f"{block}.norm2.bias": (dim,)}
        keys |= _layer(f"{block}.ffn.net.0.proj", config.ffn_dim, dim)
        keys |= _layer(f"{block}.ffn.net.2", dim, config.ffn_dim)
        keys[f"{block}.scale_shift_table"] = (1, 6, dim)
    return keys


def _layer(name: str, made: int, *given: int) -> dict[str, tuple[int, ...]]:
    """A weight and its bias."""
    return {f"{name}.weight": (made, *given), f"{name}.bias": (made,)}
