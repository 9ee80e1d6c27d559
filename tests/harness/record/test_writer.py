import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.harness.observations import JUDGEMENT, LATENT, key, manifest, normal, record, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.diff import diff
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    PictureAt,
    kept_pictures,
    picture_path,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.statistics import summarise
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.taps import Observation

FRAME = Key(0, "decode", 0, "frame")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def observed(tensor: torch.Tensor, at: Key = LATENT) -> Observation:
    return Observation(at, 1.0, tensor)


def test_a_record_says_what_was_seen(tmp_path: Path) -> None:
    tensor = normal(2, 3).bfloat16()
    found = record(tmp_path / "dump", tensor)
    expected = summarise(tensor)
    assert (found.key, found.shape, found.dtype, found.sigma) == (LATENT, [2, 3], "bfloat16", 1.0)
    for name in ("mean", "std", "min", "max", "absmean", "rms", "sample"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-8), name
    assert found.projection().tobytes() == expected.sketch


def test_a_digest_is_that_of_the_values_in_their_order(tmp_path: Path) -> None:
    tensor = normal(4, 6)
    same = record(tmp_path / "same", tensor.T.contiguous().T).digest
    assert record(tmp_path / "plain", tensor).digest == same
    assert record(tmp_path / "transposed", tensor.T).digest != same
    assert record(tmp_path / "one bit", tensor * (1 + 2**-23)).digest != same


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_of_any_dtype_can_be_recorded(tmp_path: Path, dtype: torch.dtype) -> None:
    found = record(tmp_path / "dump", torch.ones(3, dtype=dtype))
    assert (found.dtype, found.mean, found.std) == (str(dtype).removeprefix("torch."), 1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_tensor_that_repeats_one_value_in_memory_has_the_digest_of_its_values(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    repeated = torch.ones(1, dtype=dtype).expand(6)
    assert record(tmp_path / "view", repeated) == record(tmp_path / "copy", torch.ones(6, dtype=dtype))


def queries_and_keys() -> tuple[Tensor, Tensor]:
    """The same values [1,8,16,32] in two orders, symmetric about 0: no statistic tells them apart."""
    half = normal(4 * 16 * 32).view(1, 4, 16, 32)
    q = torch.cat([half, -half], dim=1)
    order = torch.randperm(q.numel(), generator=torch.Generator().manual_seed(1))
    return q, q.flatten()[order].view_as(q)


def flipped(q: Tensor) -> Tensor:
    """Every other channel with the other sign, as where the halves of a rotation are taken the wrong way round."""
    return torch.where(torch.arange(q.shape[-1]) % 2 == 0, q, -q)


FAULTS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "permuted heads": lambda q, k: (q.roll(1, dims=1), k),
    "flipped signs": lambda q, k: (flipped(q), k),
    "turned tokens": lambda q, k: (q.flip(2), k),
    "exchanged queries and keys": lambda q, k: (k, q),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_two_dumps_alone_tell_what_mean_and_std_cannot(tmp_path: Path, fault: str) -> None:
    def dump(name: str, q: Tensor, k: Tensor) -> Path:
        attention = "transformer.blocks.0.attn"
        return write_dump(tmp_path / name, [(key(f"{attention}.q_rope"), q), (key(f"{attention}.k_rope"), k)])

    right, wrong = queries_and_keys(), FAULTS[fault](*queries_and_keys())
    reference, candidate = dump("reference", *right), dump("candidate", *wrong)
    for expected, found in zip(read_records(reference), read_records(candidate), strict=True):
        for name in ("mean", "std", "min", "max", "absmean", "rms"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-6), name
    first = diff(reference, candidate, JUDGEMENT).first
    assert first is not None
    assert (first.verdict, first.site) == (Verdict.DIVERGED, "transformer.blocks.0.attn.q_rope")
    assert first.rel_l2 == pytest.approx(float((wrong[0] - right[0]).norm() / right[0].norm()), rel=0.35)


def test_records_are_written_pass_by_pass_in_execution_order(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", manifest()) as writer:
        for step in range(3):
            for site in ("patchify", "velocity"):
                writer.observe(observed(normal(4), key(site, step=step)))
            writer.end_pass()
    order = [(found.step, found.site) for found in read_records(tmp_path / "dump")]
    assert order == [(step, site) for step in range(3) for site in ("patchify", "velocity")]


def test_the_manifest_is_complete_only_after_the_last_record(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    with DumpWriter(folder, manifest(expected=1)) as writer:
        writer.observe(observed(normal(4)))
        writer.end_pass()
        with pytest.raises(UserError, match="incomplete"):
            read_manifest(folder)
    found = read_manifest(folder)
    assert (found.complete, found.observed, found.expected) == (True, 1, 1)
    assert found.seconds > 0
    assert files_in(folder) == {MANIFEST_NAME, RECORDS_NAME}


def test_a_run_that_fails_leaves_an_incomplete_dump(tmp_path: Path) -> None:
    def fail() -> None:
        with DumpWriter(tmp_path / "dump", manifest()) as writer:
            writer.observe(observed(normal(4)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(UserError, match="incomplete"):
        read_manifest(tmp_path / "dump")


KILLED_MIDWAY = """
import os, signal, sys
from pathlib import Path
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.taps import Observation
from tests.harness.observations import key, manifest, normal
with DumpWriter(Path(sys.argv[1]), manifest(expected=100)) as writer:
    for step in range(100):
        writer.observe(Observation(key("latent", step=step), 1.0, normal(64)))
        writer.end_pass()
        if step == 90:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_an_incomplete_dump_of_whole_records(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    ended = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, folder], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(read_records(folder))
    with pytest.raises(UserError, match="incomplete"):
        read_manifest(folder)


def test_a_tensor_that_is_reused_after_it_was_observed_leaves_the_record_right(tmp_path: Path) -> None:
    reused = normal(4)
    with DumpWriter(tmp_path / "dump", manifest(), keep=["*"]) as writer:
        writer.observe(observed(reused))
        reused.zero_()
    assert next(read_records(tmp_path / "dump")) == record(tmp_path / "alone", normal(4))
    assert load_file(tmp_path / "dump" / TENSORS_NAME)[str(LATENT)].any()


def test_full_tensors_are_kept_where_asked_for(tmp_path: Path) -> None:
    seen = {key("velocity"): normal(2, 3), key("latent"): normal(2, 3, seed=1).T, key("out_norm"): normal(1)}
    with DumpWriter(tmp_path / "dump", manifest(), keep=["v*", "latent"]) as writer:
        for at, tensor in seen.items():
            writer.observe(observed(tensor, at))
    kept = load_file(tmp_path / "dump" / TENSORS_NAME)
    assert kept.keys() == {"u0/denoise0/velocity", "u0/denoise0/latent"}
    assert kept["u0/denoise0/latent"].equal(seen[key("latent")])


def test_pictures_are_kept_without_loss(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, IMAGE_SHAPE, dtype=torch.uint8)
    folder = write_dump(tmp_path / "dump", [(FRAME, pixels)])
    with Image.open(picture_path(folder, PictureAt(0))) as image:
        assert np.array_equal(np.asarray(image), pixels.numpy())


def film(*levels: int) -> Tensor:
    """Pictures [n,4,5,3], each of one level."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 5, 3)


def level(folder: Path, at: PictureAt) -> int:
    with Image.open(picture_path(folder, at)) as image:
        assert image.size == (5, 4)
        return int(np.asarray(image).max())


def test_several_pictures_of_a_unit_are_kept_by_their_numbers_in_their_order(tmp_path: Path) -> None:
    """Of one call, of several calls, and of several steps."""
    shown = [
        (FRAME, film(10, 11, 12)),
        (FRAME._replace(unit=1), film(20, 21)),
        (FRAME._replace(unit=1, call=1), film(22, 23)),
        (FRAME._replace(unit=1, step=1), film(30)[0]),
        (FRAME._replace(unit=12), film(40)),
    ]
    folder = write_dump(tmp_path / "dump", shown)
    kept = kept_pictures(folder)
    assert kept == [
        *(PictureAt(0, 0, number) for number in range(3)),
        *(PictureAt(1, 0, number) for number in range(4)),
        PictureAt(1, 1),
        PictureAt(12),
    ]
    assert [level(folder, at) for at in kept] == [10, 11, 12, 20, 21, 22, 23, 30, 40]
    assert [picture_path(folder, at).name for at in kept[:2]] == ["000000.png", "000000-0-1.png"]
    assert [str(at) for at in kept[2:8]] == ["0.0.2", "1", "1.0.1", "1.0.2", "1.0.3", "1.1.0"]


def test_what_is_no_picture_of_the_dump_is_passed_over(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(FRAME, film(10))])
    for name in ("notes.png", "000000-1.png", "000001-a-0.png", "contact sheet.png", "000002.jpg"):
        (folder / "frames" / name).touch()
    assert kept_pictures(folder) == [PictureAt(0)]
    assert kept_pictures(tmp_path / "nowhere") == []


def test_every_branch_has_a_tensor_and_a_record_of_its_own(tmp_path: Path) -> None:
    branches = {key("velocity")._replace(branch=branch): normal(3, seed=at) for at, branch in enumerate("ab")}
    with DumpWriter(tmp_path / "dump", manifest(), keep=["*"]) as writer:
        for at, tensor in branches.items():
            writer.observe(observed(tensor, at))
    assert [found.key for found in read_records(tmp_path / "dump")] == list(branches)
    kept = load_file(tmp_path / "dump" / TENSORS_NAME)
    assert all(kept[f"u0/denoise0/velocity@{at.branch}"].equal(tensor) for at, tensor in branches.items())


def test_an_earlier_dump_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(FRAME, torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))])
    write_dump(folder, [(LATENT, normal(4))])
    assert files_in(folder) == {MANIFEST_NAME, RECORDS_NAME}


def test_of_a_folder_with_an_earlier_dump_only_what_it_wrote_is_replaced(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(FRAME._replace(unit=unit), film(10)[0]) for unit in range(3)], keep=["*"])
    mine = [folder / name for name in ("notes.md", "frames/mine.png", "frames/7.png", "of mine/frames/000000.png")]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    write_dump(folder, [(FRAME, film(10)[0])])
    assert [file.read_text() for file in mine] == ["mine"] * len(mine)
    assert kept_pictures(folder) == [PictureAt(0)]
    written = {path.name for path in folder.iterdir()} - {"notes.md", "of mine"}
    assert written == {MANIFEST_NAME, RECORDS_NAME, "frames"}


def test_a_link_in_a_dump_is_not_followed_when_it_is_replaced(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "dump", tmp_path / "elsewhere"
    write_dump(folder, [(FRAME, film(10)[0])], keep=["*"])
    shutil.move(folder / "frames", elsewhere)
    (folder / "frames").symlink_to(elsewhere)
    for name in (RECORDS_NAME, TENSORS_NAME, f"{MANIFEST_NAME}.partial"):
        (elsewhere / name).write_text("of somebody else")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(elsewhere / name)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    write_dump(folder, [(FRAME, film(20)[0])], keep=["*"])
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert kept_pictures(folder) == [PictureAt(0)]
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_link_to_the_folder_of_a_dump_is_that_folder(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", [(FRAME, film(10)[0])])
    (tmp_path / "latest").symlink_to(tmp_path / "dump")
    write_dump(tmp_path / "latest", [(FRAME, film(10)[0]), (FRAME._replace(unit=1), film(20)[0])])
    assert read_manifest(tmp_path / "dump").observed == 2


@pytest.mark.parametrize("content", ["notes", '{"schema": "another tool\'s"}', '{"source": "a golden pack"}'])
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, content: str) -> None:
    """A manifest.json alone makes no dump: other tools, and the golden packs, have one too."""
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(UserError, match="is not empty"):
        DumpWriter(tmp_path, manifest())
    assert (tmp_path / MANIFEST_NAME).read_text() == content


def test_a_folder_that_cannot_be_made_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        DumpWriter(tmp_path / "file" / "dump", manifest())


def test_numbers_are_written_so_that_any_two_of_fp32_stay_apart(tmp_path: Path) -> None:
    third = torch.tensor(1 / 3)
    neighbours = torch.stack([third, torch.nextafter(third, torch.tensor(1.0))])
    found = record(tmp_path / "dump", neighbours).sample
    assert torch.tensor([found[0], found[-1]]).equal(neighbours)
    assert str(found[0]) == "0.333333343"


def test_a_dump_has_no_bare_nan(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(LATENT, torch.full((4,), torch.nan))])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in (folder / RECORDS_NAME).read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["mean"] is None


def test_a_picture_that_is_none_is_refused_by_its_place(tmp_path: Path) -> None:
    at = Key(0, "decode", 0, "frame")
    with pytest.raises(UserError) as refused, DumpWriter(tmp_path / "dump", manifest(expected=1)) as writer:
        writer.observe(Observation(at, None, torch.zeros(4, 6, 3)))
    assert str(at) in refused.value.what
    assert "float32" in refused.value.found
