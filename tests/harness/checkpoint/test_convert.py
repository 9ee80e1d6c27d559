import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError

LAYOUTS = ("diffusers", "package")
WEIGHTS = {
    "diffusers": {f"transformer/{WEIGHTS_NAME}", f"vae/{WEIGHTS_NAME}"},
    "package": {"model.safetensors", "encoder.safetensors", "decoder.safetensors"},
}


def files(folder: Path) -> dict[str, str]:
    """Name -> digest of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_there_and_back_is_the_same_to_the_byte(tiny: Checkpoint, tmp_path: Path) -> None:
    """Each layout, made from the other one, twice over."""
    convert(tiny, "diffusers", tmp_path / "diffusers")
    convert(open_checkpoint(tmp_path / "diffusers"), "package", tmp_path / "package")
    convert(open_checkpoint(tmp_path / "package"), "diffusers", tmp_path / "diffusers again")
    convert(open_checkpoint(tmp_path / "diffusers again"), "package", tmp_path / "package again")
    assert files(tmp_path / "diffusers") == files(tmp_path / "diffusers again")
    assert files(tmp_path / "package") == files(tmp_path / "package again")
    assert {open_checkpoint(folder).digest for folder in tmp_path.iterdir()} == {tiny.digest}


def test_the_golden_checkpoint_comes_back_bit_for_bit(base: Checkpoint, golden: Path, tmp_path: Path) -> None:
    convert(base, "package", tmp_path / "package")
    convert(open_checkpoint(tmp_path / "package"), "diffusers", tmp_path / "back")
    for part in ("transformer", "vae"):
        there, back = (load_file(folder / part / WEIGHTS_NAME) for folder in (golden / "base", tmp_path / "back"))
        assert there.keys() == back.keys()
        for key, tensor in there.items():
            assert tensor.dtype == back[key].dtype
            assert tensor.view(torch.int32).equal(back[key].view(torch.int32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dtype_is_kept_whatever_it_is(tiny_folder: Path, tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    convert(open_checkpoint(tiny_folder), "diffusers", source)
    file = source / "transformer" / WEIGHTS_NAME
    dtypes = [torch.bfloat16, torch.float16, torch.float64]
    # The copies of a shared matrix alike: they are to stay equal.
    mixed = {
        key: tensor.to(dtypes[0 if "cond_proj" in key else i % 3])
        for i, (key, tensor) in enumerate(load_file(file).items())
    }
    save_file(mixed, file)
    checkpoint = open_checkpoint(source)
    convert(checkpoint, layout, tmp_path / "converted")
    converted = open_checkpoint(tmp_path / "converted").weights("transformer")
    assert {key: tensor.dtype for key, tensor in converted.items()} == {key: t.dtype for key, t in mixed.items()}
    assert all(tensor.equal(converted[key]) for key, tensor in mixed.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_has_its_files_and_no_others(tiny: Checkpoint, tmp_path: Path, layout: str) -> None:
    convert(tiny, layout, tmp_path / "converted")
    configs = {
        "diffusers": {"transformer/config.json", "vae/config.json"},
        "package": {"config.yaml", "encoder_conf.yml", "decoder_conf.yml"},
    }
    assert files(tmp_path / "converted").keys() == WEIGHTS[layout] | configs[layout]
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    for name in WEIGHTS[layout]:
        with safe_open(tmp_path / "converted" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_a_layout_that_does_not_exist_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such layout[\s\S]*diffusers, package"):
        convert(tiny, "onnx", tmp_path / "converted")


def test_a_folder_that_holds_the_model_already_is_left_as_it_is(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    assert convert(tiny, "package", folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not convert(tiny, "package", folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_model_is_replaced_only_by_force(tiny: Checkpoint, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "converted", seed=5)
    other = open_checkpoint(folder).digest
    with pytest.raises(UserError, match="--force"):
        convert(tiny, "diffusers", folder)
    assert open_checkpoint(folder).digest == other
    assert convert(tiny, "diffusers", folder, force=True)
    assert open_checkpoint(folder).digest == tiny.digest
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_of_a_checkpoint_is_not_taken_for_the_model(tiny: Checkpoint, tmp_path: Path, layout: str) -> None:
    """A copy that was cut short lies under the name: it is neither skipped over nor replaced without being told to."""
    folder = tmp_path / "converted"
    convert(tiny, layout, folder)
    file = folder / sorted(WEIGHTS[layout])[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="exists already"):
        convert(tiny, layout, folder)
    assert convert(tiny, layout, folder, force=True)
    assert open_checkpoint(folder).digest == tiny.digest


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_checkpoint_is_never_deleted(tiny: Checkpoint, tmp_path: Path, force: bool) -> None:
    folder, file = tmp_path / "thesis", tmp_path / "notes.txt"
    folder.mkdir()
    (folder / "chapter.tex").write_text("one")
    file.write_text("two")
    for place in (folder, file):
        with pytest.raises(UserError) as caught:
            convert(tiny, "diffusers", place, force=force)
        assert caught.value.found == "something that is no checkpoint"
        assert "--force" not in str(caught.value)
    assert (folder / "chapter.tex").read_text() + file.read_text() == "onetwo"


def test_what_a_crash_left_behind_is_cleared_away(tiny: Checkpoint, tmp_path: Path) -> None:
    partial = tmp_path / "converted.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert convert(tiny, "package", tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_a_failure_leaves_nothing_and_changes_nothing(tiny: Checkpoint, tmp_path: Path) -> None:
    """The source loses a file while it is being converted over another model."""
    source, folder = tmp_path / "source", write_checkpoint(tmp_path / "converted", seed=5)
    other = open_checkpoint(folder).digest
    convert(tiny, "diffusers", source)
    checkpoint = open_checkpoint(source)
    assert checkpoint.digest == tiny.digest
    (source / "vae" / WEIGHTS_NAME).unlink()
    with pytest.raises(UserError):
        convert(checkpoint, "package", folder, force=True)
    assert open_checkpoint(folder).digest == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["converted", "source"]


def test_a_config_that_the_layout_cannot_express_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    convert(open_checkpoint(tiny_folder), "diffusers", source)
    config = source / "vae" / "config.json"
    config.write_text(config.read_text().replace("360", "720"))
    with pytest.raises(UserError) as caught:
        convert(open_checkpoint(source), "package", tmp_path / "package")
    assert caught.value.found == "sample_size: (720, 640)"
    assert not (tmp_path / "package").exists()
