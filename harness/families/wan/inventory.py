"""The keys and shapes that a checkpoint of a given config holds, by their official names."""

from collections.abc import Iterator
from itertools import pairwise

from waypoint_parity.harness.checkpoint.weights import Shape
from waypoint_parity.harness.families.wan.config import BLOCKS, TIME_DOUBLES, WIDTHS, WanAutoencoder, WanTransformer


def transformer_keys(config: WanTransformer) -> dict[str, Shape]:
    """Key -> shape of the transformer's weights."""
    dim = config.dim
    keys: dict[str, Shape] = {
        **_layer("patch_embedding", dim, config.in_dim, *config.patch_size),
        **_layer("text_embedding.0", dim, config.text_dim),
        **_layer("text_embedding.2", dim, dim),
        **_layer("time_embedding.0", dim, config.freq_dim),
        **_layer("time_embedding.2", dim, dim),
        **_layer("time_projection.1", 6 * dim, dim),
        **_layer("head.head", config.patch_values, dim),
        "head.modulation": (1, 2, dim),
    }
    for number in range(config.num_layers):
        block = f"blocks.{number}"
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                keys |= _layer(f"{block}.{attention}.{name}", dim, dim)
            keys |= {f"{block}.{attention}.norm_{name}.weight": (dim,) for name in "qk"}
        keys |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        keys |= _layer(f"{block}.ffn.0", config.ffn_dim, dim) | _layer(f"{block}.ffn.2", dim, config.ffn_dim)
        keys[f"{block}.modulation"] = (1, 6, dim)
    return keys


def autoencoder_keys(config: WanAutoencoder) -> dict[str, Shape]:
    """Key -> shape of the autoencoder's weights."""
    latent, wide = config.z_dim, WIDTHS[-1] * config.base_dim
    keys = _layer("conv1", 2 * latent, 2 * latent, 1, 1, 1) | _layer("conv2", latent, latent, 1, 1, 1)
    keys |= _coder("encoder", 3, config.base_dim, 2 * latent, wide)
    keys |= _coder("decoder", latent, wide, 3, config.base_dim)
    for coder in ("encoder", "decoder"):
        keys |= _residual(f"{coder}.middle.0", wide, wide) | _residual(f"{coder}.middle.2", wide, wide)
        keys[f"{coder}.middle.1.norm.gamma"] = (wide, 1, 1)
        keys |= _layer(f"{coder}.middle.1.to_qkv", 3 * wide, wide, 1, 1)
        keys |= _layer(f"{coder}.middle.1.proj", wide, wide, 1, 1)
    for name, layer in _downwards(config.base_dim):
        keys |= {f"encoder.downsamples.{name}.{key}": shape for key, shape in layer.items()}
    for name, layer in _upwards(config.base_dim):
        keys |= {f"decoder.upsamples.{name}.{key}": shape for key, shape in layer.items()}
    return keys


def _coder(name: str, given: int, first: int, made: int, last: int) -> dict[str, Shape]:
    """The first and the last layer of a half."""
    ends = _layer(f"{name}.conv1", first, given, 3, 3, 3) | _layer(f"{name}.head.2", made, last, 3, 3, 3)
    return {**ends, f"{name}.head.0.gamma": (last, 1, 1, 1)}


def _downwards(base: int) -> Iterator[tuple[int, dict[str, Shape]]]:
    """(number, keys) of every layer between the first and the middle of the encoder."""
    number = 0
    for stage, (given, width) in enumerate(pairwise((base, *(base * each for each in WIDTHS)))):
        for place in range(BLOCKS):
            yield number, _residual("", width if place else given, width)
            number += 1
        if stage < len(WIDTHS) - 1:
            layer = _layer("resample.1", width, width, 3, 3)
            doubles = tuple(reversed(TIME_DOUBLES))[stage]
            yield number, layer | (_layer("time_conv", width, width, 3, 1, 1) if doubles else {})
            number += 1


def _upwards(base: int) -> Iterator[tuple[int, dict[str, Shape]]]:
    """(number, keys) of every layer between the middle and the last of the decoder."""
    widths = tuple(base * each for each in reversed(WIDTHS))
    number = 0
    for stage, (given, width) in enumerate(pairwise((widths[0], *widths))):
        for place in range(BLOCKS + 1):
            # What goes up in size has half the channels afterwards.
            entering = given // 2 if stage else given
            yield number, _residual("", width if place else entering, width)
            number += 1
        if stage < len(WIDTHS) - 1:
            layer = _layer("resample.1", width // 2, width, 3, 3)
            yield number, layer | (_layer("time_conv", 2 * width, width, 3, 1, 1) if TIME_DOUBLES[stage] else {})
            number += 1


def _residual(name: str, given: int, width: int) -> dict[str, Shape]:
    prefix = f"{name}." if name else ""
    return {
        f"{prefix}residual.0.gamma": (given, 1, 1, 1),
        **_layer(f"{prefix}residual.2", width, given, 3, 3, 3),
        f"{prefix}residual.3.gamma": (width, 1, 1, 1),
        **_layer(f"{prefix}residual.6", width, width, 3, 3, 3),
        **(_layer(f"{prefix}shortcut", width, given, 1, 1, 1) if given != width else {}),
    }


def _layer(name: str, made: int, *given: int) -> dict[str, Shape]:
    """A weight and its bias."""
    return {f"{name}.weight": (made, *given), f"{name}.bias": (made,)}
