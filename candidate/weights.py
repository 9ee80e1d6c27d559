"""From the checkpoint's layout to the native one, once, when a model is loaded.

Merged: q, k, v of each block, and k, v of each prompt attention. Split: the first matrix of each fusion. Stacked: the
six conditioning matrices, which a checkpoint stores again for every block. Baked: weight normalisation.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from waypoint_parity.candidate.autoencoder import Autoencoder
from waypoint_parity.candidate.conditioning import sigma_frequencies
from waypoint_parity.candidate.config import AutoencoderConfig, WaypointConfig
from waypoint_parity.candidate.model import Waypoint
from waypoint_parity.candidate.rope import spatial_angles, time_frequencies

HEADS = 6
MAGNITUDE, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
NESTED = re.compile(r"(?:\.(?:up|down)(\.proj)|(encoder\.conv_in)\.proj)\.")
UNUSED = "encoder.conv_out_logvar."

# Computed in fp32 whatever the model's dtype: one from values that went through that dtype, the other from exact ones.
ROUNDED_PART, EXACT_PART = "noise_conditioner.", "rope."


def load_waypoint(
    config: WaypointConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> Waypoint:
    """The world model with the `weights` of a checkpoint, keyed as in the specification.

    Raises ValueError where a block's copy of the shared conditioning matrices differs from block 0's.
    """
    native = waypoint_layout(config, weights)
    for key, value in native.items():
        cast = value.to(device, torch.float32 if key.startswith(EXACT_PART) else dtype)
        native[key] = cast.float() if key.startswith(ROUNDED_PART) else cast
    with torch.device("meta"):
        model = Waypoint(config)
    model.load_state_dict(native, assign=True)
    return model.requires_grad_(False).eval()


def load_autoencoder(config: AutoencoderConfig, weights: Mapping[str, Tensor], device: torch.device) -> Autoencoder:
    """The autoencoder with the `weights` of a checkpoint, keyed as in the specification. It computes in fp32."""
    with torch.device("meta"):
        model = Autoencoder(config)
    native = {key: value.to(device, torch.float32) for key, value in autoencoder_layout(weights).items()}
    model.load_state_dict({key: channels_last(value) for key, value in native.items()}, assign=True)
    return model.requires_grad_(False).eval()


def waypoint_layout(config: WaypointConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a Waypoint, in the dtypes of the `weights`, which share storage with it where they can."""
    native = {
        "noise_conditioner.frequencies": sigma_frequencies(),
        "noise_conditioner.mlp.fc1.weight": weights["denoise_step_emb.mlp.fc1.weight"],
        "noise_conditioner.mlp.fc2.weight": weights["denoise_step_emb.mlp.fc2.weight"],
        "control_embedding.mlp.fc1.weight": weights["ctrl_emb.mlp.fc1.weight"],
        "control_embedding.mlp.fc2.weight": weights["ctrl_emb.mlp.fc2.weight"],
        "modulator.bias_in": torch.stack([weights[f"{_block(i)}.cond_head.bias_in"] for i in range(config.n_layers)]),
        "modulator.cond_proj.weight": shared_heads(config, weights),
        "modulator.out_norm.weight": weights["out_norm.fc.weight"],
        "rope.spatial": spatial_angles(config),
        "rope.temporal": time_frequencies(config.head_dim // 4),
    }
    native |= {key: weights[key] for key in ("patchify.weight", "unpatchify.weight", "unpatchify.bias")}
    for layer in range(config.n_layers):
        block = _under(weights, f"{_block(layer)}.")
        native |= {f"blocks.{layer}.{key}": value for key, value in block_layout(block).items()}
    return native


def block_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a Block from the `weights` of one, keyed below `transformer.blocks.{i}.`."""
    native = {key: value for key, value in weights.items() if not key.startswith("cond_head.")}
    native["attn.qkv.weight"] = torch.cat([native.pop(f"attn.{name}_proj.weight") for name in "qkv"])
    if "prompt_cross_attn.k_proj.weight" in native:
        pair = [native.pop(f"prompt_cross_attn.{name}_proj.weight") for name in "kv"]
        native["prompt_cross_attn.kv.weight"] = torch.cat(pair)
    if "ctrl_mlpfusion.mlp.fc1.weight" in native:
        x_half, c_half = native.pop("ctrl_mlpfusion.mlp.fc1.weight").chunk(2, dim=1)
        native["ctrl_mlpfusion.x_proj.weight"] = x_half.contiguous()
        native["ctrl_mlpfusion.c_proj.weight"] = c_half.contiguous()
        native["ctrl_mlpfusion.fc2.weight"] = native.pop("ctrl_mlpfusion.mlp.fc2.weight")
    return native


def shared_heads(config: WaypointConfig, weights: Mapping[str, Tensor]) -> Tensor:
    """The six conditioning matrices [6*M,M] that all blocks share.

    Raises ValueError naming the first block whose copy differs from block 0's.
    """
    shared = [weights[f"{_block(0)}.cond_head.cond_proj.{head}.weight"] for head in range(HEADS)]
    for layer in range(1, config.n_layers):
        for head, expected in enumerate(shared):
            key = f"{_block(layer)}.cond_head.cond_proj.{head}.weight"
            if not torch.equal(weights[key], expected):
                raise ValueError(
                    f"block {layer} does not share the conditioning matrices\n"
                    f"  found:    {key} differs from block 0's, by up to {(weights[key] - expected).abs().max():.3g}\n"
                    "  expected: the same six matrices in every block\n"
                    "  do:       convert the checkpoint again; its shared matrices were not filled for every block"
                )
    return torch.cat(shared)


def autoencoder_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of an Autoencoder: weight normalisation baked into plain convolutions."""
    native: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = NESTED.sub(r"\1\2.", key)
        if key.endswith(MAGNITUDE):
            direction = weights[key.removesuffix(MAGNITUDE) + DIRECTION]
            native[name.removesuffix(MAGNITUDE) + "weight"] = normalised(value, direction)
        elif not key.endswith(DIRECTION):
            native[name] = value
    return {key: value for key, value in native.items() if not key.startswith(UNUSED)}


def normalised(magnitude: Tensor, direction: Tensor) -> Tensor:
    """A weight-normalised kernel [out,in,k,k]: each output channel has the length `magnitude` [out,1,1,1]. In fp32."""
    kernel = direction.float()
    length: Tensor = torch.linalg.vector_norm(kernel, dim=(1, 2, 3), keepdim=True)
    return kernel * (magnitude.float() / length)


def channels_last(value: Tensor) -> Tensor:
    """A kernel in the memory format that convolutions run fastest in, here and on a GPU; a bias as it is."""
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _block(layer: int) -> str:
    return f"transformer.blocks.{layer}"
