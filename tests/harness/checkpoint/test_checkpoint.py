import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError

COMMIT = "93fe14eed217bb09c0244a9d91b2b3e88c3de181"
KEY = "transformer.blocks.1.mlp.fc1.weight"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "checkpoint")


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "transformer" / WEIGHTS_NAME
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def refusal(location: str | Path) -> UserError:
    with pytest.raises(UserError) as caught:
        open_checkpoint(location)
    return caught.value


def test_weights_are_handed_out_as_they_are_stored(tiny_folder: Path, tiny: Checkpoint) -> None:
    stored = load_file(tiny_folder / "transformer" / WEIGHTS_NAME)
    found = tiny.weights("transformer")
    assert found.keys() == stored.keys()
    assert all(found[key].equal(stored[key]) for key in stored)
    assert all(key.startswith(("encoder.", "decoder.")) for key in tiny.weights("vae"))


def test_missing_extra_and_misshapen_weights_are_named_together(folder: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["transformer.blocks.9.attn.q_proj.weight"] = weights.pop("transformer.blocks.0.attn.q_proj.weight")
        weights[KEY] = weights[KEY][:-1].contiguous()

    change_weights(folder, change)
    error = refusal(folder)
    assert "1 missing: transformer.blocks.0.attn.q_proj.weight" in error.found
    assert "1 extra: transformer.blocks.9.attn.q_proj.weight" in error.found
    assert f"1 misshapen: {KEY} [127, 64], not [128, 64]" in error.found


def test_weights_that_are_not_finite_are_named_when_they_are_loaded(folder: Path) -> None:
    change_weights(folder, lambda weights: weights[KEY][3, 4].fill_(float("nan")))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(UserError) as caught:
        checkpoint.weights("transformer")
    assert caught.value.found == KEY


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_weights_file_that_was_cut_short_is_refused_by_name(folder: Path, part: str, kept: int) -> None:
    file = folder / part / WEIGHTS_NAME
    file.write_bytes(file.read_bytes()[:kept])
    assert refusal(folder).what == f"{file}: cannot be read as safetensors"


def test_an_absent_weights_file_is_refused_by_name(folder: Path) -> None:
    file = folder / "vae" / WEIGHTS_NAME
    file.unlink()
    assert refusal(folder).what.startswith(str(file))


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null"])
def test_a_broken_config_is_refused_by_name(folder: Path, content: bytes) -> None:
    file = folder / "transformer" / "config.json"
    file.write_bytes(content)
    assert refusal(folder).what.startswith(str(file))


def test_an_unknown_key_of_a_config_is_refused(folder: Path) -> None:
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_resolutions": [8]}))
    assert refusal(folder).found == "attention_resolutions"


def test_a_folder_without_a_checkpoint_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    assert refusal(tmp_path).found == "an empty folder"
    (tmp_path / "notes.txt").touch()
    assert refusal(tmp_path).found == "notes.txt"


@pytest.mark.parametrize("location", ["/nowhere/at/all", "owner/name", "owner/name@main", f"owner/name@{COMMIT[:12]}"])
def test_a_checkpoint_must_be_a_folder_or_pinned_to_a_commit(location: str) -> None:
    assert "40 hex digits" in refusal(location).expected


def test_the_digest_is_that_of_the_values_and_not_of_the_layout(folder: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    """The same model: copied, in shards, and in the official package's own layout."""
    assert open_checkpoint(folder).digest == tiny.digest
    shard(folder / "transformer")
    assert open_checkpoint(folder).digest == tiny.digest
    assert open_checkpoint(in_package_layout(tiny, tmp_path / "package")).digest == tiny.digest


def shard(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).unlink()
    names = sorted(weights)
    homes = {key: f"part-{index % 3}.safetensors" for index, key in enumerate(names)}
    for home in set(homes.values()):
        save_file({key: weights[key] for key in names if homes[key] == home}, folder / home)
    (folder / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps({"weight_map": homes}))


def in_package_layout(checkpoint: Checkpoint, folder: Path, autoencoder: Path | None = None) -> Path:
    """`checkpoint` as config.yaml + model.safetensors, the autoencoder beside it or in a folder of its own."""
    folder.mkdir()
    home = autoencoder or folder
    home.mkdir(exist_ok=True)
    uri = {"ae_uri": str(autoencoder)} if autoencoder else {}
    config = json.loads(json.dumps(checkpoint.geometry.transformer.to_json()))
    (folder / "config.yaml").write_text(yaml.safe_dump(config | uri | {"prompt_encoder_uri": "google/umt5-xl"}))
    save_file(checkpoint.weights("transformer"), folder / "model.safetensors")
    values = checkpoint.geometry.autoencoder.to_json()
    for coder, keys in (("encoder", ("channels", "latent_channels")), ("decoder", ())):
        model = {key: values[key] for key in keys}
        model |= {"ch_0": values[f"{coder}_ch_0"], "ch_max": values[f"{coder}_ch_max"]}
        model[f"{coder}_blocks_per_stage"] = list(values[f"{coder}_blocks_per_stage"])
        (home / f"{coder}_conf.yml").write_text(yaml.safe_dump({"model": model, "train": {"steps": 1}}))
        weights = {
            key.removeprefix(f"{coder}."): tensor
            for key, tensor in checkpoint.weights("vae").items()
            if key.startswith(coder)
        }
        save_file(weights, home / f"{coder}.safetensors")
    return folder


def test_the_package_layout_may_keep_its_autoencoder_elsewhere(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = in_package_layout(tiny, tmp_path / "model", autoencoder=tmp_path / "autoencoder")
    assert open_checkpoint(folder).digest == tiny.digest


def test_the_package_layout_without_an_autoencoder_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = in_package_layout(tiny, tmp_path / "model", autoencoder=tmp_path / "autoencoder")
    shutil.rmtree(tmp_path / "autoencoder")
    assert "has no autoencoder" in refusal(folder).what


@pytest.mark.parametrize("changes", [{"seed": 1}, {"scheduler_sigmas": [1.0, 0.25, 0.0]}], ids=["weights", "config"])
def test_another_model_has_another_digest(tiny: Checkpoint, tmp_path: Path, changes: dict[str, object]) -> None:
    assert open_checkpoint(write_checkpoint(tmp_path / "other", **changes)).digest != tiny.digest


def test_the_same_seed_makes_the_same_checkpoint(tiny: Checkpoint, tmp_path: Path) -> None:
    assert open_checkpoint(write_checkpoint(tmp_path / "again")).digest == tiny.digest


def test_every_block_of_the_tiny_checkpoint_has_the_same_conditioning_projections(tiny: Checkpoint) -> None:
    weights = tiny.weights("transformer")
    for index in range(6):
        blocks = [weights[f"transformer.blocks.{block}.cond_head.cond_proj.{index}.weight"] for block in range(3)]
        assert torch.stack(blocks).std(0).max() == 0


def test_a_config_may_name_the_class_of_its_own_code(folder: Path, tiny: Checkpoint) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "model.WorldModel"}}))
    assert open_checkpoint(folder).digest == tiny.digest
