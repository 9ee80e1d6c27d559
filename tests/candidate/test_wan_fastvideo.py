"""What holds of the adapter of FastVideo's Wan without FastVideo: its refusals. tests/official runs it."""

from pathlib import Path

import pytest
import torch

from waypoint_parity.candidate.wan_fastvideo import source
from waypoint_parity.candidate.wan_fastvideo.adapter import WanFastVideoAdapter
from waypoint_parity.fixtures.tiny_wan import write_wan
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.sources import UNTESTED

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_wan(tmp_path_factory.mktemp("wan") / "tiny", num_layers=1))


def test_without_fastvideo_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    monkeypatch.setattr(source, "PACKAGE", "fastvideo_of_another_name")
    with pytest.raises(UserError) as caught:
        WanFastVideoAdapter(checkpoint, Numerics(torch.float32, CPU))
    assert source.TESTED.revision.startswith("2f3d407")
    assert source.TESTED.revision in caught.value.expected
    assert f"FastVideo@{source.TESTED.revision}" in caught.value.do


@pytest.mark.parametrize(
    ("options", "refused"),
    [((), "sha256"), pytest.param((UNTESTED,), "has no attribute", marks=pytest.mark.slow)],
)
def test_another_revision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint, options: tuple[str, ...], refused: str
) -> None:
    """By the digest of its files; where that is waived, by what is not in it."""
    if options:
        pytest.importorskip("diffusers")
    for file in ("", "platforms/", "platforms/interface.py", "platforms/cpu.py"):
        path = tmp_path / "fastvideo" / file
        path.mkdir() if path.suffix == "" else path.touch()
    (tmp_path / "fastvideo" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        WanFastVideoAdapter(checkpoint, Numerics(torch.float32, CPU, options=options))
    assert source.TESTED.revision in caught.value.expected
    assert refused in caught.value.found


@pytest.mark.parametrize("numerics", [Numerics(torch.bfloat16, CPU), Numerics(torch.float32, CPU, compiled=True)])
def test_only_eager_fp32_is_driven(checkpoint: Checkpoint, numerics: Numerics) -> None:
    with pytest.raises(UserError) as caught:
        WanFastVideoAdapter(checkpoint, numerics)
    assert "fp32" in caught.value.expected
