"""Nothing half-written is taken for whole: full disks, files that may not grow, folders that cannot be made."""

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import refused, run

Dump = Callable[..., tuple[object, ...]]
NO_SPACE = os.strerror(errno.ENOSPC)
KIB = 1024


def size_of(folder: Path) -> int:
    """What the files of a folder take, in whole pages."""
    return sum(-(-path.stat().st_size // (4 * KIB)) * 4 * KIB for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of as many bytes as asked for. Skips where this process may not mount."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a small disk here: {getattr(error, 'stderr', None) or error}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_within_the_records_leaves_an_incomplete_dump(
    dump: Dump, small_disk: Callable[[int], Path]
) -> None:
    out = small_disk(64 * KIB) / "out"
    parts = refused(*dump("eager", out=out))
    assert parts["what"] == f"{out}: cannot be written"
    assert parts["found"] == NO_SPACE
    assert parts["do"].startswith("free space")
    outcome = run("diff", out, out)
    assert outcome.code == 1, outcome
    assert f"{out} is incomplete" in outcome.out


def test_a_disk_that_fills_up_within_the_full_tensors_leaves_an_incomplete_dump(
    dump: Dump, dumps: Path, small_disk: Callable[[int], Path]
) -> None:
    out = small_disk(size_of(dumps / "reference") + 64 * KIB) / "out"
    parts = refused(*dump("eager", "--tensors", out=out))
    assert NO_SPACE in parts["found"]
    assert parts["do"].startswith("free space")
    outcome = run("diff", out, out)
    assert outcome.code == 1, outcome
    assert f"{out} is incomplete" in outcome.out


def test_a_disk_without_room_for_a_scenario_holds_none(tiny_folder: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(8 * KIB)
    size = ("--frames", 64, "--prompt-tokens", 99)
    made = ("scenario", "make", "--checkpoint", tiny_folder, "--out", disk / "made.safetensors", *size)
    assert NO_SPACE in refused(*made)["found"]
    assert not list(disk.iterdir())


def limited(size: int) -> dict[str, Any]:
    """A process none of whose files may grow beyond `size` bytes. Works without any rights."""
    return {"preexec_fn": partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))}


def test_records_that_may_not_grow_leave_an_incomplete_dump(dump: Dump, tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = refused(*dump("eager", out=out), **limited(16 * KIB))
    assert (parts["what"], parts["found"]) == (f"{out}: cannot be written", os.strerror(errno.EFBIG))
    outcome = run("diff", out, out)
    assert outcome.code == 1, outcome
    assert f"{out} is incomplete" in outcome.out


def test_a_scenario_that_may_not_grow_is_not_there(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.safetensors"
    parts = refused("scenario", "make", "--checkpoint", tiny_folder, "--out", out, **limited(100))
    assert parts["what"] == f"{out}: cannot be written"
    assert not list(tmp_path.iterdir())


def test_a_comparison_that_may_not_grow_is_not_there(dumps: Path, tmp_path: Path) -> None:
    out = tmp_path / "diff.json"
    parts = refused("diff", dumps / "reference", dumps / "candidate", "--json", out, **limited(100))
    assert parts["what"] == f"{out}: cannot be written"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def below_a_file(tmp_path: Path) -> Path:
    """A place where nobody can make anything, not even root."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "out"


def test_a_dump_below_a_file_is_refused(dump: Dump, below_a_file: Path) -> None:
    parts = refused(*dump("eager", out=below_a_file))
    assert (parts["what"], parts["found"]) == (f"{below_a_file}: cannot be written", os.strerror(errno.ENOTDIR))


def test_a_parity_run_below_a_file_is_refused(tiny_folder: Path, scenario_file: Path, below_a_file: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--prompt-mask", "zeroed")
    assert refused("parity", *inputs, "--out", below_a_file)["found"] == os.strerror(errno.ENOTDIR)


def test_a_scenario_below_a_file_is_refused(tiny_folder: Path, below_a_file: Path) -> None:
    parts = refused("scenario", "make", "--checkpoint", tiny_folder, "--out", below_a_file)
    assert parts["what"] == f"{below_a_file}: cannot be written"


def test_a_comparison_below_a_file_is_refused(dumps: Path, below_a_file: Path) -> None:
    parts = refused("diff", dumps / "reference", dumps / "candidate", "--json", below_a_file)
    assert parts["what"] == f"{below_a_file}: cannot be written"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into any folder")
def test_a_folder_without_the_right_to_write_is_refused(dump: Dump, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert refused(*dump("eager", out=closed / "out"))["found"] == os.strerror(errno.EACCES)
