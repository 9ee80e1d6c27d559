"""Checkpoints of Waypoint on disk: the two layouts in which they are published, read and written.

The diffusers layout has `transformer/` and `vae/`, each config.json + safetensors, sharded or not. The official
package's own has config.yaml + model.safetensors, the autoencoder beside it or where `ae_uri` points.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.hub import PINNED
from waypoint_parity.harness.checkpoint.stored import read_mapping, save_weights, sharded
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME, Shape, Weights
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint.config import (
    AutoencoderConfig,
    TaehvConfig,
    TransformerConfig,
    WaypointGeometry,
    taehv_sizes,
)
from waypoint_parity.harness.families.waypoint.spelling import canonical
from waypoint_parity.harness.run.family import Opened

_CLASSES = {TransformerConfig: "WorldModel", AutoencoderConfig: "WorldEngineVAE", TaehvConfig: "ChunkedStreamingTAEHV"}
# Exact names: a repository may also hold the same weights in another precision, under a name that differs by a word.
_DIFFUSERS_WEIGHTS = tuple(
    f"{part}/diffusion_pytorch_model{ending}"
    for part in ("transformer", "vae")
    for ending in (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
)
_PACKAGE_NAME = "model.safetensors"
_PACKAGE_WEIGHTS = (
    _PACKAGE_NAME,
    f"{_PACKAGE_NAME}.index.json",
    "model-*-of-*.safetensors",
    "encoder.safetensors",
    "decoder.safetensors",
)
_TAEHV_WEIGHTS = ("taehv1_5.pth", "taehv1_5.safetensors")
# Where other things lie, and a class for loaders that run a repository's own code: nothing of the geometry.
_ELSEWHERE = ("auto_map", "ae_uri", "prompt_encoder_uri")
# Of a TAEHV, what no config file says.
_READ_OFF = ("encoder_width", "decoder_widths", "inner_size", "picture_size")


def layout_of(folder: Path) -> str | None:
    """The layout that a folder has, "diffusers" or "package"; None for another folder."""
    if (folder / "transformer" / "config.json").is_file():
        return "diffusers"
    return "package" if (folder / "config.yaml").is_file() else None


def weight_files(folder: Path) -> tuple[str, ...]:
    """The weights that belong to the configs in a folder. Of the package's, the autoencoder may lie there alone."""
    if layout_of(folder) == "diffusers":
        return _DIFFUSERS_WEIGHTS
    # A TAEHV is published without a config.
    own = any((folder / name).is_file() for name in ("config.yaml", "encoder_conf.yml"))
    return (*_PACKAGE_WEIGHTS, *_TAEHV_WEIGHTS) if own else _TAEHV_WEIGHTS


def opened(folder: Path, find: Callable[[str], Path]) -> Opened:
    """The checkpoint in a folder of either layout; `find` fetches what an `ae_uri` names on a hub."""
    return _open_diffusers(folder) if layout_of(folder) == "diffusers" else _open_package(folder, find)


def _open_diffusers(folder: Path) -> Opened:
    config = _transformer(read_mapping(folder / "transformer" / "config.json"), "transformer/config.json")
    files = {name: sharded(folder / name / WEIGHTS_NAME) for name in ("transformer", "vae")}
    values, source = read_mapping(folder / "vae" / "config.json"), "vae/config.json"
    if config.is_waypoint_15:
        autoencoder: AutoencoderConfig | TaehvConfig = _taehv(values, config, files["vae"].shapes(), source)
    else:
        autoencoder = AutoencoderConfig.read(values, source=source)
    return _opened(config, autoencoder, files["transformer"], files["vae"])


def _opened(
    config: TransformerConfig, autoencoder: AutoencoderConfig | TaehvConfig, transformer: Weights, vae: Weights
) -> Opened:
    geometry = WaypointGeometry(config, autoencoder)
    return Opened(geometry, {"transformer": canonical(transformer, config), "vae": vae})


def _transformer(values: Mapping[str, Any], source: str) -> TransformerConfig:
    """The config of the world model that a file holds."""
    geometry = {key: value for key, value in values.items() if key not in _ELSEWHERE}
    # Waypoint 1.5 says its patch a second time.
    kernel = geometry.pop("conv_kw", None)
    config = TransformerConfig.read(geometry, source=source)
    patch = list(config.patch)
    if kernel is not None and kernel != {"kernel_size": patch, "stride": patch}:
        raise UserError(
            f"{source}: patch and conv_kw contradict each other",
            found=f"patch {patch}, conv_kw {kernel!r}"[:200],
            expected="the patch as kernel_size and as stride",
            do="take the config that was saved with these weights",
        )
    return config


def _taehv(
    values: Mapping[str, Any], config: TransformerConfig, shapes: Mapping[str, Shape], source: str
) -> TaehvConfig:
    """The config of a TAEHV: what a file says of it, if one does, and what the shapes of its weights say."""
    widest = "encoder.0.weight", *(f"decoder.{place}.weight" for place in (1, 8, 14, 20))
    if lacking := [key for key in widest if not shapes.get(key)]:
        raise UserError(
            f"{source}: not the weights of a TAEHV",
            found=listed(sorted(shapes)) or "no weights",
            expected=f"also {listed(lacking)}",
            do="take the autoencoder that belongs to this model",
        )
    first, *widths = (shapes[key][0] for key in widest)
    read_off = {"encoder_width": first, "decoder_widths": tuple(widths), **taehv_sizes(config)}
    if named := sorted(read_off.keys() & values.keys()):
        raise UserError(
            f"{source}: the config has unknown keys",
            found=listed(named),
            expected="what the weights and the model do not say by themselves",
            do="remove the keys",
        )
    return TaehvConfig.read({"latent_channels": config.channels, **values, **read_off}, source=source)


def _open_package(folder: Path, find: Callable[[str], Path]) -> Opened:
    """The official package's layout. Its autoencoder lies beside the model, or in the folder that `ae_uri` names."""
    values = read_mapping(folder / "config.yaml")
    uri, config = str(values.get("ae_uri") or ""), _transformer(values, "config.yaml")
    transformer = sharded(folder / _PACKAGE_NAME)
    if config.is_waypoint_15:
        weights = Weights({_autoencoder(folder, uri, find, _TAEHV_WEIGHTS): ""})
        return _opened(config, _taehv({}, config, weights.shapes(), "config.yaml"), transformer, weights)
    home = _autoencoder(folder, uri, find, ("encoder_conf.yml",)).parent
    halves = {home / f"{coder}.safetensors": f"{coder}." for coder in ("encoder", "decoder")}
    return _opened(config, _package_autoencoder(home), transformer, Weights(halves))


def _autoencoder(folder: Path, uri: str, find: Callable[[str], Path], names: Sequence[str]) -> Path:
    """The first file of the autoencoder: beside the model, in the folder that `ae_uri` names, or what it names."""
    homes = [folder, folder / uri, Path(uri)] if uri else [folder]
    places = [home / name for home in homes for name in names]
    places += [home for home in homes[1:] if home.name in names]
    there = list(dict.fromkeys(path.resolve() for path in places if path.is_file()))
    if len(beside := [path for path in there if path.parent == there[0].parent]) > 1:
        raise UserError(
            f"{there[0].parent}: holds the autoencoder twice",
            found=listed([path.name for path in beside]),
            expected="one of them",
            do="move away the one that is not meant",
        )
    found = next(iter(there), None)
    if found is None and PINNED.fullmatch(uri):
        fetched = find(uri)
        found = next((fetched / name for name in names if (fetched / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{folder}: the checkpoint has no autoencoder",
            found=f"ae_uri: {uri or None}",
            expected=" or ".join(names) + " beside config.yaml, with what belongs to it",
            do="copy the autoencoder's files there, or let ae_uri name their folder, or their hub id with its revision",
        )
    return found


def _package_autoencoder(folder: Path) -> AutoencoderConfig:
    """The two training configs as one; only the keys that give the geometry are read from them."""
    encoder, decoder = (_coder(folder / f"{coder}_conf.yml") for coder in ("encoder", "decoder"))
    for key in ("channels", "latent_channels"):
        if decoder.get(key, encoder.get(key)) != encoder.get(key):
            raise UserError(
                f"{folder}: encoder and decoder do not belong together",
                found=f"{key} {encoder.get(key)} in encoder_conf.yml, {decoder[key]} in decoder_conf.yml",
                expected="one autoencoder",
                do="take both halves from one checkpoint",
            )
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


def _coder(path: Path) -> dict[str, Any]:
    """What a training config says of the model."""
    model = read_mapping(path).get("model")
    if not isinstance(model, dict):
        raise UserError(
            f"{path}: does not describe a model",
            found=f"model: {model!r}"[:200],
            expected="keys and values below `model`",
            do="take the file that was saved with these weights",
        )
    return model


def write_diffusers(checkpoint: Checkpoint, folder: Path) -> None:
    """The diffusers layout."""
    geometry = checkpoint.geometry
    for name, config in {"transformer": geometry.transformer, "vae": geometry.autoencoder}.items():
        home = folder / name
        home.mkdir()
        told = {key: value for key, value in config.to_json().items() if key not in _READ_OFF}
        values = {"_class_name": _CLASSES[type(config)]} | told
        (home / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        save_weights(dict(checkpoint.files[name].as_stored().stream()), home / WEIGHTS_NAME)


def write_package(checkpoint: Checkpoint, folder: Path) -> None:
    """The official package's layout, the autoencoder beside the model.

    The package itself resolves `ae_uri` against the working directory: run it in the folder, or override the key.
    """
    _write_yaml(checkpoint.geometry.transformer.to_json() | {"ae_uri": "."}, folder / "config.yaml")
    save_weights(dict(checkpoint.files["transformer"].as_stored().stream()), folder / "model.safetensors")
    tensors = dict(checkpoint.files["vae"].stream())
    if checkpoint.geometry.transformer.is_waypoint_15:
        torch.save(tensors, folder / _TAEHV_WEIGHTS[0])
        return
    for coder in ("encoder", "decoder"):
        _write_yaml({"model": _coder_config(checkpoint.geometry.autoencoder, coder)}, folder / f"{coder}_conf.yml")
        prefix = f"{coder}."
        half = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        save_weights(half, folder / f"{coder}.safetensors")


def _coder_config(config: AutoencoderConfig, coder: str) -> dict[str, Any]:
    """The half of the autoencoder's config that concerns `coder`, in the names of the package."""
    values, blocks = config.to_json(), f"{coder}_blocks_per_stage"
    shared = {key: values[key] for key in ("channels", "latent_channels", "skip_logvar")}
    return shared | {"ch_0": values[f"{coder}_ch_0"], "ch_max": values[f"{coder}_ch_max"], blocks: values[blocks]}


def _write_yaml(values: Mapping[str, Any], path: Path) -> None:
    plain = json.loads(json.dumps(values))  # YAML has no tuples
    path.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
