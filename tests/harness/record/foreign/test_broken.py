"""Sources that are broken, or of several runs or processes: refused by name, never merged and never guessed."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.harness.observations import normal
from tests.harness.record.foreign.samples import SAMPLES, imported
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import read_manifest

TRACE = SAMPLES / "fastvideo/right.jsonl"


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., UserError]:
    def refusal(source: Path | str, **options: Any) -> UserError:
        with pytest.raises(UserError) as caught:
            imported(source, tmp_path / "out", **options)
        return caught.value

    return refusal


def copied(sample: str, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (shutil.copytree if (SAMPLES / sample).is_dir() else shutil.copy)(SAMPLES / sample, source)
    return source


# --- FastVideo's file


@pytest.mark.parametrize("bytes_kept", [0.5, 0.999])
def test_a_trace_cut_short_is_named_with_its_line(
    tmp_path: Path, refused: Callable[..., UserError], bytes_kept: float
) -> None:
    content = TRACE.read_bytes()
    content = content[: int(len(content) * bytes_kept)]
    (tmp_path / "trace").write_bytes(content)
    line = content.count(b"\n") + 1
    assert f"trace, line {line}" in refused(tmp_path / "trace").what


@pytest.mark.parametrize(
    "line",
    [
        *(b"[]", b"null", b'{"module": "a", "tensor": "out"}', b'{"module": "a", "tensor": "out", "step": "0"}'),
        *(b"", b"\xff", b'{"module": 1, "tensor": "out", "step": 0}', b"[" * 100_000),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, refused: Callable[..., UserError], line: bytes) -> None:
    lines = TRACE.read_bytes().splitlines()
    (tmp_path / "trace").write_bytes(b"\n".join([*lines[:7], line, *lines[7:]]))
    assert "trace, line 8" in refused(tmp_path / "trace").what


def test_a_second_run_in_the_file_is_asked_about(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    assert "line 5" in refused("fastvideo/right.appended.jsonl", dtype="fp32").what
    # A second run that was killed, and one that is right at its beginning alone.
    lines = TRACE.read_bytes().splitlines(keepends=True)
    for more in (lines[:20], [*lines[:4], *(line.replace(b"0", b"1") for line in lines[4:])]):
        (tmp_path / "trace").write_bytes(b"".join(lines + more))
        refused(tmp_path / "trace")
    assert refused("fastvideo/right.appended.jsonl", dtype="fp32", run=2).found == "2 that begin alike"


def test_frames_and_branches_are_not_taken_for_a_second_run(tmp_path: Path) -> None:
    """Both repeat the keys of the file, with other values; the first module of a branch may show the same ones."""
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()][:14]
    again = [lines[0], *({**line, "mean": line["mean"] + 1} for line in lines[1:])]
    (tmp_path / "trace").write_text("".join(json.dumps(line) + "\n" for line in lines + again))
    found = imported(tmp_path / "trace", tmp_path / "out", branches=("cond", "uncond"))
    assert {record.branch for record in found.records.values()} == {"cond", "uncond"}
    assert imported(tmp_path / "trace", tmp_path / "out").manifest.units == 1


def test_two_processes_in_one_file_are_asked_about(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()][:28]
    both = [each for line in lines for each in (line, {**line, "mean": line["mean"] + 1})]
    (tmp_path / "trace").write_text("".join(json.dumps(line) + "\n" for line in both))
    assert "line 2" in refused(tmp_path / "trace").what
    imported(tmp_path / "trace", tmp_path / "out", repeats_told=True)


def test_a_module_that_is_called_twice_is_not_taken_for_two_processes(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()][:14]
    twice = [*lines[:3], {**lines[2], "mean": 0.5}, *lines[3:]]
    frames = [{**line, "mean": line["mean"] + frame} for frame in range(3) for line in twice]
    (tmp_path / "trace").write_text("".join(json.dumps(line) + "\n" for line in frames))
    assert len(imported(tmp_path / "trace", tmp_path / "out").records) == 45


def test_a_precision_that_nothing_tells_is_asked_for(refused: Callable[..., UserError]) -> None:
    assert "--dtype" in refused("fastvideo/right.defaults.jsonl").do


# --- several processes


@pytest.mark.parametrize(
    ("sample", "folder", "other"),
    [("msprobe/statistics/right/step0", "proc4014", "rank1"), ("msprobe/tensor/right/step0", "proc4636", "proc4637")],
)
def test_processes_of_msprobe_are_not_merged(
    tmp_path: Path, refused: Callable[..., UserError], sample: str, folder: str, other: str
) -> None:
    step = copied(sample, tmp_path)
    shutil.copytree(step / folder, step / other)
    error = refused(step)
    assert folder in error.found
    assert other in error.found
    whole = imported(sample, tmp_path / "whole").keys
    assert imported(step, tmp_path / "out", process=other.lstrip("procank")).keys == whole
    assert refused(step, process="7").found == error.found


def test_processes_of_sglang_are_not_merged(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    source = copied("sglang/right", tmp_path)
    for path in list(source.iterdir()):
        shutil.copy(path, source / path.name.replace("rank=0", "rank=1"))
    assert "rank0, rank1" in refused(source).found
    assert len(imported(source, tmp_path / "out", process="1").records) == 10


def test_two_dumps_of_sglang_are_not_merged(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    for name in ("right", "permuted"):
        shutil.copytree(SAMPLES / "sglang" / name, tmp_path / "source" / name)
    assert "permuted, right" in refused(tmp_path / "source").found


def test_runners_of_polygraphy_are_not_merged(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    held = json.loads((SAMPLES / "polygraphy/right.two_iterations.json").read_text())
    held["lst"] *= 2
    (tmp_path / "two.json").write_text(json.dumps(held))
    refused(tmp_path / "two.json")
    assert len(imported(tmp_path / "two.json", tmp_path / "out", process="1").records) == 2


# --- broken files

BROKEN = {
    "msprobe/statistics/right": "step0/proc4014/dump.json",
    "msprobe/tensor/right": "step0/proc4636/dump_tensor_data/Module.velocity.Linear.forward.0.output.0.pt",
    "transformers/full/right": "Toy.velocity_outputs.safetensors",
    "transformers/repr_default/right": "Toy_debug_tree_FULL_TENSORS.json",
    "sglang/tags": "step=0___rank=0___dump_index=2___name=sigmas___recompute_status=disabled.pt",
    "polygraphy/right.json": "",
    "polygraphy/inputs.json": "",
    "hand/flat/right.pt": "",
    "hand/flat/right.npz": "",
    "hand/flat/right.safetensors": "",
    "hand/frame_files/right": "frames/frame_001.pt",
    "hand/indexed/right": "tensor_dump_index.json",
    "hand/step_folders/right": "step_01/block_0.npy",
}


@pytest.mark.parametrize("kept", [0.97, 0.6, 0.3])
@pytest.mark.parametrize("sample", BROKEN)
def test_a_file_cut_short_is_named(tmp_path: Path, refused: Callable[..., UserError], sample: str, kept: float) -> None:
    source = copied(sample, tmp_path)
    path = source / BROKEN[sample] if BROKEN[sample] else source
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    error = refused(source)
    assert path.name in error.what
    # What was read before is there, and tells that it is not all.
    manifest = read_manifest(tmp_path / "out", unfinished=True)
    assert not manifest.complete
    assert path.name in str(manifest.ended)


@pytest.mark.parametrize("sample", [name for name in BROKEN if not name.startswith("msprobe/statistics")])
def test_a_file_with_wrong_bytes_is_no_fault_of_ours(tmp_path: Path, sample: str) -> None:
    source = copied(sample, tmp_path)
    path = source / BROKEN[sample] if BROKEN[sample] else source
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 20)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        # Another number in a tensor makes no broken file.
        with suppress(UserError):
            imported(source, tmp_path / "out")


class Code:
    """What nothing that reads a file may run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_code_in_a_file_is_not_run(
    tmp_path: Path, refused: Callable[..., UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": Code()}, tmp_path / "code.pt")
    assert "code.pt" in refused(tmp_path / "code.pt").what
    np.save(tmp_path / "code.npy", np.array([Code()]), allow_pickle=True)
    assert "code.npy" in refused(tmp_path / "code.npy").what
    assert capsys.readouterr().out == ""


def test_a_list_that_holds_itself_ends(tmp_path: Path) -> None:
    endless: list[Any] = [None]
    endless.append(endless)
    torch.save({"a": normal(2), "b": endless}, tmp_path / "endless.pt")
    assert imported(tmp_path / "endless.pt", tmp_path / "out").keys == ["u0/forward0/a"]


def test_names_that_no_file_can_hold_are_spelt_otherwise(tmp_path: Path) -> None:
    torch.save({"a\ud800": normal(2), "b\n": normal(2)}, tmp_path / "names.pt")
    assert len(imported(tmp_path / "names.pt", tmp_path / "out").records) == 2


def test_a_tensor_of_another_pass_than_its_tree_is_refused(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    source = copied("transformers/full/right", tmp_path)
    shutil.copy(source / "Toy.blocks.0.mlp.act_outputs.safetensors", source / "Toy.velocity_outputs.safetensors")
    assert "velocity" in refused(source).what


def test_two_files_of_the_same_names_are_not_merged(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    assert "patchify" in refused("hand/flat").found


def test_what_is_no_dump_is_refused(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    (tmp_path / "text").write_text("nothing\n")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    torch.save({"a": "text", "b": None}, tmp_path / "no_tensor.pt")
    for name in ("text", "empty", "folder", "no_tensor.pt", "absent"):
        assert name in refused(tmp_path / name).what
    assert "DebugMode" in refused("torch_debug_mode/right.norm.txt").what


def test_a_dump_of_ours_is_not_imported(tmp_path: Path, refused: Callable[..., UserError]) -> None:
    imported("hand/flat/right.pt", tmp_path / "ours")
    assert "diff" in refused(tmp_path / "ours").do


def test_statistics_of_another_run_beside_a_tensor_are_refused(
    tmp_path: Path, refused: Callable[..., UserError]
) -> None:
    """What a second run into one folder leaves behind."""
    tree = copied("transformers/full/permuted", tmp_path)
    for file in (SAMPLES / "transformers/full/right").glob("*.safetensors"):
        shutil.copy(file, tree)
    assert "out_proj" in refused(tree).what


@pytest.mark.parametrize("changed", [{"Max": 99.0}, {"Norm": 1e4}, {"shape": [7, 7]}, {"dtype": "torch.float64"}])
def test_a_leaf_of_msprobe_must_be_of_its_tensor(
    tmp_path: Path, refused: Callable[..., UserError], changed: dict[str, Any]
) -> None:
    source = copied("msprobe/tensor/right", tmp_path)
    (file,) = source.rglob("dump.json")
    told = json.loads(file.read_text())
    for entry in told["data"].values():
        for leaf in entry["output"]:
            leaf |= changed
    file.write_text(json.dumps(told))
    assert refused(source).what.startswith(str(source))
