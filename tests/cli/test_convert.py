import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME


def test_there_and_back(tiny_folder: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    package, back = tmp_path / "package", tmp_path / "back"
    outcome = run("convert", tiny_folder, "--to", "package", "--out", package)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{package}: package layout of {tiny_folder}, digest {tiny.digest}\n"
    assert run("convert", package, "--to", "diffusers", "--out", back).code == 0
    assert open_checkpoint(back).digest == tiny.digest
    again = run("convert", package, "--to", "diffusers", "--out", back)
    assert (again.code, again.out) == (0, f"{back}: left as it is, holds already {package}, digest {tiny.digest}\n")


def test_another_folder_is_refused_and_says_what_would_help(checkpoint: Path, golden: Path, tiny: Checkpoint) -> None:
    parts = refused("convert", golden / "base", "--to", "diffusers", "--out", checkpoint)
    assert "--force" in parts["do"]
    assert open_checkpoint(checkpoint).digest == tiny.digest
    assert run("convert", golden / "base", "--to", "diffusers", "--out", checkpoint, "--force").code == 0
    assert open_checkpoint(checkpoint).digest == open_checkpoint(golden / "base").digest


def test_a_checkpoint_that_does_not_fit_is_not_converted(checkpoint: Path, golden: Path, tmp_path: Path) -> None:
    shutil.copyfile(golden / "base" / "vae" / WEIGHTS_NAME, checkpoint / "vae" / WEIGHTS_NAME)
    parts = refused("convert", checkpoint, "--to", "package", "--out", tmp_path / "package")
    assert "the weights do not fit the config" in parts["what"]
    assert not (tmp_path / "package").exists()


def test_a_place_that_cannot_be_written_is_refused(tiny_folder: Path) -> None:
    parts = refused("convert", tiny_folder, "--to", "package", "--out", "/proc/nowhere/package")
    assert parts["what"] == "/proc/nowhere/package: cannot be written"


@pytest.mark.parametrize("arguments", [(), ("--to", "onnx", "--out", "x"), ("--to", "package"), ("--out", "x")])
def test_a_layout_and_a_place_must_be_given(tiny_folder: Path, arguments: tuple[str, ...]) -> None:
    outcome = run("convert", tiny_folder, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err
