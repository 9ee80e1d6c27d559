"""What lies in a checkpoint's folder: each kind is read as it is meant, or refused by file and key."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.checkpoint.inspection import inspect_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError

KEY = "transformer.blocks.1.attn.q_proj.weight"
TIED = "transformer.blocks.{}.cond_head.cond_proj."
Held = dict[str, Tensor]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return shutil.copytree(tiny_folder, tmp_path / "checkpoint")


@pytest.fixture
def file(folder: Path) -> Path:
    """The transformer's weights."""
    return folder / "transformer" / WEIGHTS_NAME


def held(file: Path) -> Held:
    return {key: tensor.clone() for key, tensor in load_file(file).items()}


def change(file: Path, changed: Callable[[Held], Held], metadata: dict[str, str] | None = None) -> None:
    save_file(changed(held(file)), file, metadata)


def matrices(weights: Held, cast: Callable[[Tensor], Tensor]) -> Held:
    return {key: cast(tensor) if tensor.ndim == 2 else tensor for key, tensor in weights.items()}


def refusal(folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder)
    return caught.value


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64])
def test_plain_floats_of_any_width_are_read(folder: Path, file: Path, dtype: torch.dtype) -> None:
    change(file, lambda weights: matrices(weights, lambda tensor: tensor.to(dtype)))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.weights("transformer")[KEY].float().equal(held(file)[KEY].float())
    assert inspect_checkpoint(checkpoint, "candidate")


@pytest.mark.parametrize(
    "scale", ["weight_scale", "weight_scale_inv", "scale_weight", "input_scale", "weight.absmax", "weight_quantizer"]
)
def test_fp8_beside_scales_is_refused_by_the_scale(folder: Path, file: Path, scale: str) -> None:
    name = f"{KEY.removesuffix('weight')}{scale}"
    change(file, lambda weights: {**matrices(weights, lambda x: x.to(torch.float8_e4m3fn)), name: torch.ones(1)})
    assert name in refusal(folder).found
    assert name in str(inspect_checkpoint(open_checkpoint(folder, check=False)).parts[0].codes)


def test_fp8_whose_scales_are_in_the_metadata_is_refused(folder: Path, file: Path) -> None:
    cast = torch.float8_e4m3fn
    change(file, lambda weights: matrices(weights, lambda x: x.to(cast)), {"_quantization_metadata": "{}"})
    assert "_quantization_metadata" in refusal(folder).found


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64])
def test_what_is_no_float_is_refused_by_key_and_type(folder: Path, file: Path, dtype: torch.dtype) -> None:
    change(file, lambda weights: {**weights, KEY: (weights[KEY] * 100).to(dtype)})
    assert KEY in refusal(folder).found
    assert not inspect_checkpoint(open_checkpoint(folder, check=False))


def of_type(file: Path, dtype: str) -> None:
    """Add a tensor `odd` of a type with which torch can do little or nothing."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = len(data) - 8 - length
    header["odd"] = {"dtype": dtype, "shape": [8], "data_offsets": [size, size + int(dtype[1])]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :] + bytes(int(dtype[1])))


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "F8_E4M3FNUZ"])
def test_floats_that_need_a_scale_are_refused_and_told(folder: Path, file: Path, dtype: str) -> None:
    of_type(file, dtype)
    assert refusal(folder).found == f"1 as {dtype}: odd"
    assert inspect_checkpoint(open_checkpoint(folder, check=False)).parts[0].codes == f"1 as {dtype}: odd"


def test_a_type_that_torch_does_not_have_is_refused_by_key(folder: Path, file: Path) -> None:
    of_type(file, "F6_E2M3")
    assert refusal(folder).found == "1 as F6_E2M3: odd"
    with pytest.raises(UserError) as caught:
        inspect_checkpoint(open_checkpoint(folder, check=False))
    assert "odd" in caught.value.found


def test_a_value_too_large_for_fp32_is_not_finite(folder: Path, file: Path) -> None:
    change(file, lambda weights: {**weights, KEY: weights[KEY].double() * 1e300})
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder).weights("transformer")
    assert caught.value.found == KEY
    assert inspect_checkpoint(open_checkpoint(folder)).parts[0].not_finite == [KEY]


def test_a_matrix_that_is_zero_is_told_and_no_fault(folder: Path, file: Path) -> None:
    change(file, lambda weights: {**weights, KEY: torch.zeros_like(weights[KEY])})
    inspection = inspect_checkpoint(open_checkpoint(folder))
    assert inspection
    assert inspection.parts[0].zero == [KEY]


@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("told", [True, False], ids=["told in the metadata", "not told"])
def test_ties_that_a_file_leaves_out_are_read(
    folder: Path, file: Path, tiny: Checkpoint, kept: int, told: bool
) -> None:
    here = TIED.format(kept)
    ties = {
        key: here + key.partition("cond_proj.")[2]
        for key in held(file)
        if "cond_proj." in key and not key.startswith(here)
    }
    assert len(ties) == 12
    metadata = {"format": "pt", **ties} if told else {"format": "pt"}
    change(file, lambda weights: {key: weights[key] for key in weights.keys() - ties}, metadata)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.digest == tiny.digest
    assert inspect_checkpoint(checkpoint, "candidate").parts[0].ties == ties
    convert(checkpoint, "package", folder.with_name("converted"))
    assert open_checkpoint(folder.with_name("converted")).digest == tiny.digest


def test_what_a_file_says_is_shared_is_read_and_anything_else_is_missing(folder: Path, file: Path) -> None:
    first = KEY.replace("blocks.1", "blocks.0")

    def without(weights: Held) -> Held:
        return {key: weights[key] for key in weights.keys() - {KEY}}

    whole = held(file)
    save_file(without(whole), file, {KEY: first})
    assert open_checkpoint(folder).weights("transformer")[KEY].equal(whole[first])
    for kept in (KEY, "nowhere", "patchify.weight"):
        save_file(without(whole), file, {KEY: kept})
        assert refusal(folder).found == f"1 missing: {KEY}"


def test_a_tie_is_not_guessed_where_the_copies_differ(folder: Path, file: Path) -> None:
    one, other = TIED.format(1) + "3.weight", TIED.format(2) + "3.weight"
    change(file, lambda weights: {key: 2 * x if key == one else x for key, x in weights.items() if key != other})
    assert refusal(folder).found == f"1 missing: {other}"


def test_copies_of_a_shared_matrix_that_differ_are_refused_when_they_are_loaded(folder: Path, file: Path) -> None:
    copy = TIED.format(1) + "3.weight"
    change(file, lambda weights: {**weights, copy: weights[copy].bfloat16()})
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder).weights("transformer")
    assert caught.value.found == copy


@pytest.mark.parametrize("prefix", ["module.", "model.", "transformer.", "_orig_mod.", "model.diffusion_model."])
def test_a_prefix_of_every_key_is_named(folder: Path, file: Path, prefix: str) -> None:
    change(file, lambda weights: {prefix + key: tensor for key, tensor in weights.items()})
    assert refusal(folder).found == f"{prefix} before every key"


def test_a_prefix_of_some_keys_is_no_prefix(folder: Path, file: Path) -> None:
    change(file, lambda weights: {f"module.{key}" if key == KEY else key: tensor for key, tensor in weights.items()})
    assert refusal(folder).found == f"1 missing: {KEY}; 1 extra: module.{KEY}"


Parts = dict[str, Held]


def sharded(file: Path, changed: Callable[[dict[str, str], Parts], object] = lambda homes, parts: None) -> Path:
    """The weights in two shards beside their index, `changed` before they are written; the path of the index."""
    weights = held(file)
    file.unlink()
    homes = {key: f"part-{place % 2 + 1:05d}-of-00002.safetensors" for place, key in enumerate(sorted(weights))}
    parts = {name: {key: weights[key] for key in weights if homes[key] == name} for name in set(homes.values())}
    changed(homes, parts)
    for name, part in parts.items():
        save_file(part, file.with_name(name))
    index = file.with_name(f"{WEIGHTS_NAME}.index.json")
    index.write_text(json.dumps({"weight_map": homes}))
    return index


def other(home: str) -> str:
    return home.replace("00001-", "x").replace("00002-of", "00001-of").replace("x", "00002-")


@pytest.mark.parametrize("factor", [1, 2], ids=["equal", "other values"])
def test_a_key_in_two_shards_is_refused_with_both(folder: Path, file: Path, factor: int) -> None:
    def twice(homes: dict[str, str], parts: Parts) -> None:
        parts[other(homes[KEY])][KEY] = factor * parts[homes[KEY]][KEY]

    sharded(file, twice)
    assert refusal(folder).found == f"{KEY} in part-00001-of-00002.safetensors and part-00002-of-00002.safetensors"


CONTRADICTIONS: dict[str, Callable[[dict[str, str], Parts], object]] = {
    "in another shard": lambda homes, parts: homes.update({KEY: other(homes[KEY])}),
    "in no shard": lambda homes, parts: parts[homes[KEY]].pop(KEY),
    "not in the index": lambda homes, parts: homes.pop(KEY),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_an_index_that_contradicts_its_shards_is_refused_by_key(folder: Path, file: Path, kind: str) -> None:
    index = sharded(file, CONTRADICTIONS[kind])
    error = refusal(folder)
    assert error.what.startswith(str(index))
    assert KEY in error.found


def test_a_shard_that_is_not_there_is_named(folder: Path, file: Path) -> None:
    sharded(file)
    file.with_name("part-00002-of-00002.safetensors").unlink()
    error = refusal(folder)
    assert (error.found, error.expected) == ("part-00001-of-00002.safetensors", "part-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"weight_map": {}, "weight_map": {}}',
        *(
            json.dumps({"weight_map": homes})
            for homes in ({}, [], {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": 1, "b": "c"}, {"a": ""}, {"a": "b\0"})
        ),
        '{"weight_map": {"a": "../../elsewhere.safetensors"}}',
        '{"weight_map": {"a": "/elsewhere.safetensors"}}',
        '{"weight_map": {"a": ".."}}',
    ],
    ids=lambda text: text[:60],
)
def test_an_index_that_names_no_files_beside_it_is_refused(folder: Path, file: Path, text: str) -> None:
    index = sharded(file)
    index.write_text(text)
    assert refusal(folder).what.startswith(str(index))


def test_weights_that_are_there_whole_and_in_shards_are_refused(folder: Path, file: Path) -> None:
    whole = file.read_bytes()
    sharded(file)
    file.write_bytes(whole)
    assert refusal(folder).found.startswith(WEIGHTS_NAME)


def test_the_package_s_own_layout_may_be_sharded_too(folder: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    convert(tiny, "package", tmp_path / "package")
    whole = tmp_path / "package" / "model.safetensors"
    index = sharded(whole)
    index.rename(whole.with_name("model.safetensors.index.json"))
    assert open_checkpoint(tmp_path / "package").digest == tiny.digest


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "pytorch_model.bin", "model.ckpt"])
def test_which_files_are_read_and_which_are_not_is_told(folder: Path, file: Path, name: str) -> None:
    file.with_name(name).write_bytes(b"")
    part = inspect_checkpoint(open_checkpoint(folder)).parts[0]
    assert (part.files, part.unread) == ([WEIGHTS_NAME], [name])


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.gguf"])
def test_weights_of_another_name_are_named(folder: Path, file: Path, name: str) -> None:
    file.rename(file.with_name(name))
    error = refusal(folder)
    assert (error.what.partition(": ")[0], error.found) == (str(file), name)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_refused_with_what_converts_it(folder: Path, file: Path, tiny: Checkpoint, name: str) -> None:
    weights = held(file)
    for block in (1, 2):
        # Of one memory, as a model in PyTorch has them.
        weights |= {
            key.replace("blocks.0", f"blocks.{block}"): weights[key] for key in weights if TIED.format(0) in key
        }
    file.unlink()
    torch.save(weights, file.with_name(name))
    error = refusal(folder)
    assert error.found == name
    code = error.do.partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert open_checkpoint(folder).digest == tiny.digest


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["TRACE_OF_CODE"],)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS_NAME])
def test_code_in_a_pickle_does_not_run(
    folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TRACE_OF_CODE", str(tmp_path / "trace"))
    file.unlink()
    torch.save({"a": Code()}, file.with_name(name))
    assert str(file) in refusal(folder).what
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html>\n<html>404</html>", "a web page"),
        (b"\n<HTML>404</HTML>", "a web page"),
        (b'{"error":"Repository not found"}', "the error message of a server"),
        (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file"),
        (b"", "an empty file"),
        ((10**6).to_bytes(8, "little") + b"{}", "Error while deserializing header"),
        ((2**63).to_bytes(8, "little") + b"{}", "Error while deserializing header"),
    ],
    ids=["lfs", "web page", "old web page", "server's error", "gguf", "empty", "long header", "huge header"],
)
def test_what_lies_in_the_place_of_weights_is_told(folder: Path, file: Path, content: bytes, found: str) -> None:
    file.write_bytes(content)
    error = refusal(folder)
    assert error.what.startswith(str(file))
    assert error.found.startswith(found)


def test_a_folder_and_a_loop_of_links_are_no_weights(folder: Path, file: Path) -> None:
    file.unlink()
    file.mkdir()
    assert refusal(folder).what.startswith(str(file))
    file.rmdir()
    file.symlink_to(file.name)
    assert refusal(folder).what.startswith(str(file))


def test_a_place_that_the_system_does_not_show_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("x" * 300)).found
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").found
    assert refusal(Path("/" + "x" * 5000)).found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [".", "transformer", "vae", "transformer/config.json", f"vae/{WEIGHTS_NAME}"])
def test_what_this_user_may_not_read_is_refused(folder: Path, name: str) -> None:
    place = folder / name
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        assert "ermission denied" in refusal(folder).found
    finally:
        place.chmod(mode)
