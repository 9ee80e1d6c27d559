"""The driver of the vendor's HY-WorldPlay, where its code is absent. Where it is there: tests/official."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from waypoint_parity.fixtures.tiny_hy_worldplay import write_hy_worldplay
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.reference.hy_worldplay import package
from waypoint_parity.reference.hy_worldplay.adapter import HyWorldPlayAdapter, as_pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_hy_worldplay(tmp_path_factory.mktemp("hy") / "tiny", num_layers=1))


def build(checkpoint: Checkpoint, dtype: str = "fp32", *options: str) -> HyWorldPlayAdapter:
    return HyWorldPlayAdapter(checkpoint, Numerics(DTYPES[dtype], torch.device("cpu"), options=options))


def test_an_absent_repository_is_named_with_its_revision(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.revision in error.value.expected
    assert package.TESTED.revision in error.value.do


def test_another_revision_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("hyvideo/__init__.py", "wan/inference/pipeline_wan_w_mem_relative_rope.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hyvideo", raising=False)
    before = set(sys.modules)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.digest in error.value.expected
    # Asked to, it is run all the same, and has not what is needed. What stood in for its packages is gone again.
    with pytest.raises(UserError) as error:
        build(checkpoint, "fp32", UNTESTED)
    assert "imported" in error.value.found
    assert not {"models", "inference", "distributed", "sageattention"} & (set(sys.modules) - before)


def test_bf16_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="fp32"):
        build(checkpoint, "bf16")


def test_pictures_are_written_as_whole_levels() -> None:
    video = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1)
    assert as_pictures(video).flatten().tolist() == [0, 128, 255]
