"""Checkpoints: where the configs and weights of a model lie, in every layout in which they are published.

Accepted are the diffusers layout (`transformer/`, `vae/`, each config.json + safetensors, sharded or not), the official
package's own layout (config.yaml + model.safetensors, encoder and decoder beside it or where `ae_uri` points) and a hub
id with a pinned revision (`owner/name@revision`). Keys and shapes are checked against the config when a checkpoint is
opened, from the file headers; values when they are loaded.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness import inventory
from harness.config import AutoencoderConfig, TransformerConfig
from harness.digest import values_digest
from harness.errors import UserError, listed

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
_UNPINNED_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")
_PACKAGE_ONLY_KEYS = ("ae_uri", "prompt_encoder_uri")


@dataclass(frozen=True)
class Weights:
    """The tensors of one model, spread over safetensors files; `files` maps each file to the prefix its keys lack."""

    files: Mapping[Path, str]

    def shapes(self) -> dict[str, inventory.Shape]:
        """Key -> shape, from the file headers alone."""
        shapes: dict[str, inventory.Shape] = {}
        for path, prefix in self.files.items():
            header = _opened(path)
            shapes |= {prefix + key: tuple(header.get_slice(key).get_shape()) for key in header.keys()}  # noqa: SIM118 - no mapping
        return shapes

    def check(self, expected: Mapping[str, inventory.Shape]) -> None:
        """Raise UserError, naming the keys, where the files do not hold exactly the `expected` tensors."""
        mismatch = inventory.compare(self.shapes(), expected)
        if not mismatch:
            return
        parts = {"missing": mismatch.missing, "extra": mismatch.extra, "misshapen": mismatch.misshapen}
        raise UserError(
            f"{listed([str(path) for path in self.files])}: the weights do not fit the config",
            found="; ".join(f"{len(keys)} {part}: {listed(keys)}" for part, keys in parts.items() if keys),
            expected=f"exactly the {len(expected)} tensors that the config asks for",
            do="pair the weights with the config they were saved with",
        )

    def load(self) -> dict[str, Tensor]:
        """Every tensor as stored, on the CPU. Raises UserError, naming the keys, for values that are not finite."""
        tensors = dict(self.stream())
        if broken := sorted(key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()):
            raise UserError(
                f"{listed([str(path) for path in self.files])}: weights hold NaN or infinity",
                found=listed(broken),
                expected="finite values in every weight",
                do="fetch or convert the checkpoint again; a reduced-precision conversion may have overflowed",
            )
        return tensors

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) one at a time, sorted by key, whatever file it lies in."""
        handles = {path: _opened(path) for path in self.files}
        homes = sorted(
            (prefix + key, path, key)
            for path, prefix in self.files.items()
            for key in handles[path].keys()  # noqa: SIM118
        )
        for name, path, key in homes:
            yield name, handles[path].get_tensor(key)


def _opened(path: Path) -> Any:
    """The open safetensors file; a broken or absent one raises UserError."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors",
            found=str(error) or type(error).__name__,
            expected="a whole safetensors file",
            do="fetch or copy the file again; it was probably cut short",
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: keys and shapes are known to fit the configs."""

    origin: str
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    transformer_files: Weights
    autoencoder_files: Weights

    def transformer_weights(self) -> dict[str, Tensor]:
        """The world model's tensors, keyed as in spec/waypoint.md."""
        return self.transformer_files.load()

    def autoencoder_weights(self) -> dict[str, Tensor]:
        """The autoencoder's tensors, keyed `encoder.*` and `decoder.*`."""
        return self.autoencoder_files.load()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configs, keys, dtypes, shapes and values: equal for equal models in whatever layout."""
        configs = json.dumps([self.transformer.to_json(), self.autoencoder.to_json()])
        return values_digest(configs, chain(self.transformer_files.stream(), self.autoencoder_files.stream()))


def open_checkpoint(location: str | Path) -> Checkpoint:
    """Open a checkpoint folder or a hub id with its revision, and check its keys and shapes.

    Raises UserError for a folder in neither layout, for an unpinned hub id, and for whatever does not fit the configs.
    """
    folder, origin = _located(str(location))
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
    checkpoint.transformer_files.check(inventory.transformer_keys(checkpoint.transformer))
    checkpoint.autoencoder_files.check(inventory.autoencoder_keys(checkpoint.autoencoder))
    return checkpoint


def _located(location: str) -> tuple[Path, str]:
    """The local folder of `location`, and how it is named in a manifest."""
    folder = Path(location)
    if folder.is_dir():
        return folder, str(location)
    if hub := _HUB_ID.fullmatch(location):
        # Imported here: it takes 0.3 s, and most checkpoints are folders.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            snapshot = snapshot_download(hub["repo"], revision=hub["revision"])
        except (OSError, HfHubHTTPError) as error:
            raise UserError(
                f"{location}: cannot be fetched from the hub",
                found=str(error).splitlines()[0],
                expected="a reachable hub, or the snapshot in the local hub cache",
                do="check the id and the connection, or name a local folder",
            ) from error
        return Path(snapshot), location
    looks_like_hub_id = _UNPINNED_HUB_ID.fullmatch(location)
    raise UserError(
        f"{location}: no such checkpoint",
        found="a hub id without a pinned revision, or a misspelt folder" if looks_like_hub_id else "no such folder",
        expected="a folder, or owner/name@revision with the 40 hex digits of a commit",
        do="correct the path, or pin the revision; a branch name is no identity",
    )


def _open_diffusers(folder: Path, origin: str) -> Checkpoint:
    return Checkpoint(
        origin,
        TransformerConfig.read(_mapping(folder / "transformer" / "config.json"), source="transformer/config.json"),
        AutoencoderConfig.read(_mapping(folder / "vae" / "config.json"), source="vae/config.json"),
        _sharded(folder / "transformer"),
        _sharded(folder / "vae"),
    )


def _sharded(folder: Path) -> Weights:
    """The one weights file of `folder`, or the shards that its index names."""
    index = folder / f"{WEIGHTS_NAME}.index.json"
    if not index.is_file():
        return Weights({folder / WEIGHTS_NAME: ""})
    return Weights({folder / name: "" for name in sorted(set(_mapping(index)["weight_map"].values()))})


def _open_package(folder: Path, origin: str) -> Checkpoint:
    """The official package's layout. Its autoencoder lies beside the model, or in the folder that `ae_uri` names."""
    values = _mapping(folder / "config.yaml")
    homes = [folder, folder / str(values.get("ae_uri", "")), Path(str(values.get("ae_uri", "")))]
    autoencoder = next((home for home in homes if (home / "encoder_conf.yml").is_file()), None)
    if autoencoder is None:
        raise UserError(
            f"{folder}: the checkpoint has no autoencoder",
            found=f"ae_uri: {values.get('ae_uri')}",
            expected="encoder_conf.yml, decoder_conf.yml and their two .safetensors beside config.yaml",
            do="copy the autoencoder's files into the folder, or point ae_uri at the folder that holds them",
        )
    geometry = {key: value for key, value in values.items() if key not in _PACKAGE_ONLY_KEYS}
    return Checkpoint(
        origin,
        TransformerConfig.read(geometry, source="config.yaml"),
        _package_autoencoder(autoencoder),
        Weights({folder / "model.safetensors": ""}),
        Weights({autoencoder / "encoder.safetensors": "encoder.", autoencoder / "decoder.safetensors": "decoder."}),
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
