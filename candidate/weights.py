"""From the checkpoint's layout to the native one, once, when a model is loaded.

Merged: q, k, v of each block, and k, v of each prompt attention. Split: the first matrix of each fusion. Stacked: the
six conditioning matrices, which a checkpoint stores again for every block.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from waypoint_parity.candidate.conditioning import SLOTS, wave_numbers
from waypoint_parity.candidate.config import AutoencoderConfig, TaehvConfig, WaypointConfig
from waypoint_parity.candidate.dcae import Dcae
from waypoint_parity.candidate.model import Waypoint
from waypoint_parity.candidate.rope import rope_tables
from waypoint_parity.candidate.taehv import Taehv

# In fp32 whatever the model's dtype: one with values that went through that dtype, the other as its tables are made.
ROUNDED_PART, EXACT_PART = "noise_conditioner.", "rope."


def load_waypoint(
    config: WaypointConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> Waypoint:
    """The world model with the `weights` of a checkpoint, keyed as in the specification.

    Raises ValueError where a block's copy of the shared conditioning matrices differs from block 0's.
    """
    native = waypoint_layout(config, weights, dtype)
    for key, value in native.items():
        cast = value.to(device, torch.float32 if key.startswith(EXACT_PART) else dtype)
        native[key] = cast.float() if key.startswith(ROUNDED_PART) else cast
    with torch.device("meta"):
        model = Waypoint(config)
    model.load_state_dict(native, assign=True)
    return model.requires_grad_(False).eval()


def load_autoencoder(
    config: AutoencoderConfig | TaehvConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> Dcae | Taehv:
    """The autoencoder with the `weights` of a checkpoint, keyed as in the specification.

    A TAEHV computes in `dtype`, that of the world model beside it; a DCAE in fp32.
    """
    made = (
        Taehv({key: value.to(device, dtype) for key, value in weights.items()}, config)
        if isinstance(config, TaehvConfig)
        else Dcae({key: value.to(device) for key, value in weights.items()}, config)
    )
    return made.requires_grad_(False).eval()


def waypoint_layout(
    config: WaypointConfig, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The state of a Waypoint in `dtype`: still in the dtypes of the `weights`, and in their storage where it can be.

    Only the rotation's tables, which belong to no checkpoint, are as such a model has them.
    """
    native = {
        "noise_conditioner.frequencies": wave_numbers(),
        "noise_conditioner.mlp.0.weight": weights["denoise_step_emb.mlp.fc1.weight"],
        "noise_conditioner.mlp.2.weight": weights["denoise_step_emb.mlp.fc2.weight"],
        "control_embedding.mlp.0.weight": weights["ctrl_emb.mlp.fc1.weight"],
        "control_embedding.mlp.2.weight": weights["ctrl_emb.mlp.fc2.weight"],
        "modulator.bias_in": torch.stack([weights[f"{_block(i)}.cond_head.bias_in"] for i in range(config.n_layers)]),
        "modulator.cond_proj.weight": shared_heads(config, weights),
        "modulator.out_norm.weight": weights["out_norm.fc.weight"],
    }
    native |= {f"rope.{name}": table for name, table in rope_tables(config, dtype).items()}
    native |= {key: weights[key] for key in ("patchify.weight", "unpatchify.weight", "unpatchify.bias")}
    for layer in range(config.n_layers):
        block = _under(weights, f"{_block(layer)}.")
        native |= {f"blocks.{layer}.{key}": value for key, value in block_layout(block).items()}
    return native


def block_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a Block from the `weights` of one, keyed below `transformer.blocks.{i}.`."""
    native = {key: value for key, value in weights.items() if not key.startswith("cond_head.")}
    native["mlp.0.weight"], native["mlp.2.weight"] = native.pop("mlp.fc1.weight"), native.pop("mlp.fc2.weight")
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
    shared = [weights[f"{_block(0)}.cond_head.cond_proj.{head}.weight"] for head in range(SLOTS)]
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


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _block(layer: int) -> str:
    return f"transformer.blocks.{layer}"
