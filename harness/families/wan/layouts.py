"""Checkpoints of Wan on disk, in the two layouts in which they are published, read and written.

The official layout has config.json and diffusion_pytorch_model*.safetensors beside Wan2.1_VAE.pth, which has no config.
The diffusers layout has model_index.json, `transformer/`, `vae/` and `scheduler/`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.stored import read_mapping, save_weights, sharded
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME, Rewrite, Weights
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.wan.config import (
    LATENTS_MEAN,
    WanAutoencoder,
    WanGeometry,
    diffusers_autoencoder,
    diffusers_configs,
    diffusers_transformer,
    official_config,
    official_transformer,
)
from waypoint_parity.harness.families.wan.names import official_of, to_diffusers
from waypoint_parity.harness.run.family import Opened

OFFICIAL, DIFFUSERS = "official", "diffusers"
_VAE = "Wan2.1_VAE.pth"
_WEIGHTS = tuple(
    f"diffusion_pytorch_model{ending}" for ending in (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
)
# The scheduler that the published pipelines name, for those who load the folder with diffusers itself.
_SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "num_train_timesteps": 1000,
    "flow_shift": 3.0,
}
_INDEX = {
    "_class_name": "WanPipeline",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": [None, None],
    "tokenizer": [None, None],
}


def layout_of(folder: Path) -> str | None:
    """The layout that a folder has; None for another folder."""
    layouts = ((OFFICIAL, "config.json", "WanModel"), (DIFFUSERS, "transformer/config.json", "WanTransformer3DModel"))
    return next((name for name, path, cls in layouts if _class_in(folder / path) == cls), None)


def _class_in(path: Path) -> str | None:
    """The class that a config names; None where there is no config."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values.get("_class_name") if isinstance(values, dict) else None


def weight_files(folder: Path) -> tuple[str, ...]:
    """Patterns of the weights that belong to the configs in a folder."""
    if layout_of(folder) == DIFFUSERS:
        return tuple(f"{part}/{name}" for part in ("transformer", "vae") for name in _WEIGHTS)
    return (*_WEIGHTS, _VAE)


def opened(folder: Path) -> Opened:
    """The checkpoint in a folder of either layout."""
    return _open_diffusers(folder) if layout_of(folder) == DIFFUSERS else _open_official(folder)


def _open_official(folder: Path) -> Opened:
    files = {"transformer": sharded(folder / WEIGHTS_NAME), "vae": Weights({folder / _VAE: ""})}
    text = files["transformer"].shapes().get("text_embedding.0.weight", ())
    shapes = files["vae"].shapes()
    ends = [shapes.get(key, ()) for key in ("decoder.head.0.gamma", "conv2.weight")]
    if len(text) != 2 or not all(ends):
        raise UserError(
            f"{folder}: not the weights of Wan 2.1",
            found=listed(sorted(shapes)) or "no weights",
            expected=f"text_embedding.0.weight in {WEIGHTS_NAME}, decoder.head.0.gamma and conv2.weight in {_VAE}",
            do="fetch the checkpoint again",
        )
    base, latent = ends[0][0], ends[1][0]
    if latent != len(LATENTS_MEAN):
        raise UserError(
            f"{folder / _VAE}: is not the autoencoder of Wan 2.1",
            found=f"latents of {latent} channels",
            expected=f"{len(LATENTS_MEAN)}, of which the official code has mean and deviation",
            do="take the autoencoder that was published with the model",
        )
    values = read_mapping(folder / "config.json")
    config = official_transformer(values, text[1], str(folder / "config.json"))
    return Opened(WanGeometry(config, WanAutoencoder(base_dim=base, z_dim=latent)), files)


def _open_diffusers(folder: Path) -> Opened:
    sources = {part: folder / part / "config.json" for part in ("transformer", "vae")}
    config = diffusers_transformer(read_mapping(sources["transformer"]), str(sources["transformer"]))
    autoencoder = diffusers_autoencoder(read_mapping(sources["vae"]), str(sources["vae"]))
    files = {part: _renamed(part, sharded(folder / part / WEIGHTS_NAME)) for part in sources}
    return Opened(WanGeometry(config, autoencoder), files)


def _renamed(component: str, weights: Weights) -> Weights:
    """The same by their official names."""
    theirs = official_of(component, weights.shapes())
    rewrites = {ours: Rewrite((name,), _same) for ours, name in theirs.items()}
    return Weights(weights.files, weights.index, rewrites=rewrites)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def write_official(checkpoint: Checkpoint, folder: Path) -> None:
    """The official layout. Raises UserError where latents are not scaled as published: it cannot say so."""
    autoencoder = checkpoint.geometry.autoencoder
    if autoencoder != WanAutoencoder(base_dim=autoencoder.base_dim):
        raise UserError(
            f"{checkpoint.origin}: cannot be written in the official layout",
            found="latents that are scaled otherwise than the published ones",
            expected="the mean and the deviation that the official code has",
            do="keep the diffusers layout",
        )
    _write_json(official_config(checkpoint.geometry.transformer), folder / "config.json")
    save_weights(dict(checkpoint.files["transformer"].stream()), folder / WEIGHTS_NAME)
    torch.save(dict(checkpoint.files["vae"].stream()), folder / _VAE)


def write_diffusers(checkpoint: Checkpoint, folder: Path) -> None:
    """The diffusers layout."""
    _write_json(_INDEX, folder / "model_index.json")
    for part, values in diffusers_configs(checkpoint.geometry).items():
        (folder / part).mkdir()
        _write_json(values, folder / part / "config.json")
        tensors = {to_diffusers(part, key): tensor for key, tensor in checkpoint.files[part].stream()}
        save_weights(tensors, folder / part / WEIGHTS_NAME)
    (folder / "scheduler").mkdir()
    _write_json(_SCHEDULER, folder / "scheduler" / "scheduler_config.json")


def _write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
