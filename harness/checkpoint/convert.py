"""Writing a checkpoint in another layout, bit for bit."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors.torch import save_file
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import WEIGHTS_NAME, Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig
from waypoint_parity.harness.files import writing

Layout = Literal["diffusers", "package"]


def convert(checkpoint: Checkpoint, layout: Layout, folder: Path, *, force: bool = False) -> bool:
    """Write `checkpoint` into `folder`; false where that holds the very same model in this layout already.

    Values, dtypes and keys stay as they are, which is checked by digest before `folder` appears under its name: nothing
    half-written is ever taken for a checkpoint. Raises UserError where `folder` holds anything else, unless `force`d to
    replace another checkpoint, and where the layout cannot express a config.
    """
    if folder.exists():
        if not force and _holds(folder, layout, checkpoint):
            return False
        _refuse_to_replace(folder, force)
    partial, replaced = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.replaced")
    try:
        with writing(folder):
            for leftover in (partial, replaced):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
            (_write_diffusers if layout == "diffusers" else _write_package)(checkpoint, partial)
        _verify(partial, checkpoint)
        with writing(folder):
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return True


def _write_diffusers(checkpoint: Checkpoint, folder: Path) -> None:
    parts = (
        ("transformer", "WorldModel", checkpoint.transformer, checkpoint.transformer_files),
        ("vae", "WorldEngineVAE", checkpoint.autoencoder, checkpoint.autoencoder_files),
    )
    for name, class_name, config, weights in parts:
        home = folder / name
        home.mkdir()
        values = {"_class_name": class_name} | config.to_json()
        (home / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        _save(dict(weights.stream()), home / WEIGHTS_NAME)


def _write_package(checkpoint: Checkpoint, folder: Path) -> None:
    """The official package's layout, the autoencoder beside the model.

    The package itself resolves `ae_uri` against the working directory: run it in the folder, or override the key.
    """
    _write_yaml(checkpoint.transformer.to_json() | {"ae_uri": "."}, folder / "config.yaml")
    _save(dict(checkpoint.transformer_files.stream()), folder / "model.safetensors")
    tensors = dict(checkpoint.autoencoder_files.stream())
    for coder in ("encoder", "decoder"):
        _write_yaml({"model": _coder_config(checkpoint.autoencoder, coder)}, folder / f"{coder}_conf.yml")
        prefix = f"{coder}."
        half = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        _save(half, folder / f"{coder}.safetensors")


def _coder_config(config: AutoencoderConfig, coder: str) -> dict[str, Any]:
    """The half of the autoencoder's config that concerns `coder`, in the names of the package."""
    values, blocks = config.to_json(), f"{coder}_blocks_per_stage"
    shared = {key: values[key] for key in ("channels", "latent_channels", "skip_logvar")}
    return shared | {"ch_0": values[f"{coder}_ch_0"], "ch_max": values[f"{coder}_ch_max"], blocks: values[blocks]}


def _write_yaml(values: Mapping[str, Any], path: Path) -> None:
    plain = json.loads(json.dumps(values))  # YAML has no tuples
    path.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    # Loaders of the diffusers family refuse a file that does not name the framework.
    save_file(tensors, path, {"format": "pt"})


def _verify(partial: Path, checkpoint: Checkpoint) -> None:
    """Raise UserError where what was written is not the same model."""
    written = open_checkpoint(partial)
    if written.digest == checkpoint.digest:
        return
    before, after = (
        {**opened.transformer.to_json(), **opened.autoencoder.to_json()} for opened in (checkpoint, written)
    )
    lost = [f"{key}: {value}" for key, value in before.items() if after[key] != value]
    raise UserError(
        f"{checkpoint.origin}: cannot be converted without loss",
        found=", ".join(lost) or "other weights after writing",
        expected="a config that both layouts can express, and a disk that keeps what is written",
        do="keep the checkpoint in its own layout" if lost else "convert again, to another disk",
    )


def _holds(folder: Path, layout: Layout, checkpoint: Checkpoint) -> bool:
    """Whether `folder` holds the same model in this layout."""
    if _layout(folder) != layout:
        return False
    try:
        return open_checkpoint(folder).digest == checkpoint.digest
    except UserError:
        return False


def _layout(folder: Path) -> Layout | None:
    if (folder / "transformer" / "config.json").is_file():
        return "diffusers"
    return "package" if (folder / "config.yaml").is_file() else None


def _refuse_to_replace(folder: Path, force: bool) -> None:
    """Raise UserError for what is no checkpoint, which is never deleted, and without `force` for every folder."""
    foreign = not folder.is_dir() or (_layout(folder) is None and any(folder.iterdir()))
    if foreign or not force:
        raise UserError(
            f"{folder}: exists already",
            found="something that is no checkpoint" if foreign else "another model, or another layout of this one",
            expected="a folder that does not exist"
            + ("" if foreign else ", or --force to replace the checkpoint in it"),
            do="name another folder" + ("" if foreign else ", or add --force"),
        )
