"""Checkpoints: where the configs and weights of a model lie, in every layout in which they are published.

Accepted are the diffusers layout (`transformer/`, `vae/`, each config.json + safetensors, sharded or not), the official
package's own layout (config.yaml + model.safetensors, encoder and decoder beside it or where `ae_uri` points). Where
they lie is the matter of harness/checkpoint/hub.py. Keys and shapes are checked against the config when a checkpoint is
opened, from the file headers; values when they are loaded.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from waypoint_parity.harness.checkpoint.digest import values_digest
from waypoint_parity.harness.checkpoint.hub import PINNED, locate
from waypoint_parity.harness.checkpoint.weights import Weights
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint import inventory
from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_PACKAGE_ONLY_KEYS = ("ae_uri", "prompt_encoder_uri")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: keys and shapes are known to fit the configs, unless it was opened without the check."""

    origin: str
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    transformer_files: Weights
    autoencoder_files: Weights
    # Where it lies, and what travels with it (harness/judge/noise_floor); None for a checkpoint made in memory.
    folder: Path | None = None

    def check(self) -> None:
        """Raise UserError, naming the keys, where the files do not hold exactly what the configs ask for."""
        self.transformer_files.check(inventory.transformer_keys(self.transformer))
        self.autoencoder_files.check(inventory.autoencoder_keys(self.autoencoder))

    def transformer_weights(self) -> dict[str, Tensor]:
        """The world model's tensors, keyed as in the official checkpoint."""
        return self.transformer_files.load()

    def autoencoder_weights(self) -> dict[str, Tensor]:
        """The autoencoder's tensors, keyed `encoder.*` and `decoder.*`."""
        return self.autoencoder_files.load()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configs, keys, dtypes, shapes and values: equal for equal models in whatever layout."""
        configs = json.dumps([self.transformer.to_json(), self.autoencoder.to_json()])
        return values_digest(configs, chain(self.transformer_files.stream(), self.autoencoder_files.stream()))


def open_checkpoint(location: str | Path, *, check: bool = True) -> Checkpoint:
    """Open the checkpoint at `location` (see harness.checkpoint.hub.locate), and `check` its keys and shapes.

    Raises UserError for a folder in neither layout, for a config that is none and, checked, for whatever does not fit
    the configs. Only an inspection opens a checkpoint unchecked: it reports what does not fit.
    """
    folder, origin = locate(str(location))
    if (folder / "transformer" / "config.json").is_file():
        checkpoint = _open_diffusers(folder, origin)
    elif (folder / "config.yaml").is_file():
        checkpoint = _open_package(folder, origin)
    else:
        raise UserError(
            f"{location}: not a checkpoint folder",
            found=listed(sorted(entry.name for entry in folder.iterdir())) or "an empty folder",
            expected="transformer/config.json and vae/config.json, or config.yaml and model.safetensors",
            do="name the folder that holds them",
        )
    if check:
        checkpoint.check()
    return checkpoint


def _open_diffusers(folder: Path, origin: str) -> Checkpoint:
    geometry = _mapping(folder / "transformer" / "config.json")
    geometry.pop("auto_map", None)  # names the model's class for loaders that run a repository's own code
    return Checkpoint(
        origin,
        TransformerConfig.read(geometry, source="transformer/config.json"),
        AutoencoderConfig.read(_mapping(folder / "vae" / "config.json"), source="vae/config.json"),
        _sharded(folder / "transformer"),
        _sharded(folder / "vae"),
        folder,
    )


def _sharded(folder: Path) -> Weights:
    """The one weights file of `folder`, or the shards that its index names."""
    index = folder / f"{WEIGHTS_NAME}.index.json"
    if not index.is_file():
        return Weights({folder / WEIGHTS_NAME: ""})
    homes = _mapping(index).get("weight_map")
    if not isinstance(homes, dict):
        raise UserError(
            f"{index}: names no files",
            found=f"weight_map: {homes!r}",
            expected="weight_map, from key to file name",
            do="fetch the index again",
        )
    return Weights({folder / name: "" for name in sorted(set(homes.values()))})


def _open_package(folder: Path, origin: str) -> Checkpoint:
    """The official package's layout. Its autoencoder lies beside the model, or in the folder that `ae_uri` names."""
    values = _mapping(folder / "config.yaml")
    uri = str(values.get("ae_uri") or "")
    homes = [folder, folder / uri, Path(uri)] if uri else [folder]
    if PINNED.fullmatch(uri) and not (folder / "encoder_conf.yml").is_file():
        homes.append(locate(uri)[0])
    autoencoder = next((home for home in homes if (home / "encoder_conf.yml").is_file()), None)
    if autoencoder is None:
        raise UserError(
            f"{folder}: the checkpoint has no autoencoder",
            found=f"ae_uri: {uri or None}",
            expected="encoder_conf.yml, decoder_conf.yml and their two .safetensors beside config.yaml",
            do="copy the autoencoder's files there, or let ae_uri name their folder, or their hub id with its revision",
        )
    geometry = {key: value for key, value in values.items() if key not in _PACKAGE_ONLY_KEYS}
    return Checkpoint(
        origin,
        TransformerConfig.read(geometry, source="config.yaml"),
        _package_autoencoder(autoencoder),
        Weights({folder / "model.safetensors": ""}),
        Weights({autoencoder / "encoder.safetensors": "encoder.", autoencoder / "decoder.safetensors": "decoder."}),
        folder,
    )


def _package_autoencoder(folder: Path) -> AutoencoderConfig:
    """The two training configs as one; only the keys that give the geometry are read from them."""
    encoder = _mapping(folder / "encoder_conf.yml").get("model", {})
    decoder = _mapping(folder / "decoder_conf.yml").get("model", {})
    found = {
        "channels": encoder.get("channels"),
        "latent_channels": encoder.get("latent_channels"),
        "encoder_ch_0": encoder.get("ch_0"),
        "encoder_ch_max": encoder.get("ch_max"),
        "encoder_blocks_per_stage": encoder.get("encoder_blocks_per_stage"),
        "decoder_ch_0": decoder.get("ch_0"),
        "decoder_ch_max": decoder.get("ch_max"),
        "decoder_blocks_per_stage": decoder.get("decoder_blocks_per_stage"),
    }
    values = {key: value for key, value in found.items() if value is not None}
    skip_logvar = bool(encoder.get("skip_logvar", False))
    return AutoencoderConfig.read(values | {"skip_logvar": skip_logvar}, source=str(folder / "encoder_conf.yml"))


def _mapping(path: Path) -> dict[str, Any]:
    """The mapping that a JSON or YAML file holds."""
    try:
        values = yaml.safe_load(path.read_text("utf-8")) if path.suffix != ".json" else json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read", found=str(error), expected="a JSON or YAML mapping", do="repair the file"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: is not a mapping", found=type(values).__name__, expected="keys and values", do="repair the file"
        )
    return values
