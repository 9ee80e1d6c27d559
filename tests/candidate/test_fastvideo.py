"""What holds of the FastVideo adapter without FastVideo: renaming, refusals, probes. tests/official runs the port."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.candidate.fastvideo import source
from waypoint_parity.candidate.fastvideo.adapter import FastVideoAdapter
from waypoint_parity.candidate.fastvideo.port import check_geometry, renamed
from waypoint_parity.candidate.fastvideo.probes import Probed, ProbedRotation
from waypoint_parity.fixtures.tiny import transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("transformer.blocks.3.mlp.fc1.weight", "transformer.blocks.3.mlp.fc_in.weight"),
        ("transformer.blocks.3.ctrl_mlpfusion.mlp.fc2.weight", "transformer.blocks.3.ctrl_mlpfusion.mlp.fc_out.weight"),
        ("denoise_step_emb.mlp.fc1.weight", "denoise_step_emb.mlp.fc_in.weight"),
        ("transformer.blocks.3.attn.q_proj.weight", "transformer.blocks.3.attn.q_proj.weight"),
        ("out_norm.fc.weight", "out_norm.fc.weight"),
        ("unpatchify.bias", "unpatchify.bias"),
    ],
)
def test_only_the_two_matrices_of_an_mlp_have_another_name_in_the_port(key: str, expected: str) -> None:
    assert renamed(key) == expected


def test_without_fastvideo_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    monkeypatch.setattr(source, "PACKAGE", "fastvideo_of_another_name")
    with pytest.raises(UserError) as caught:
        FastVideoAdapter(tiny, fp32_on_cpu)
    assert source.TESTED.revision.startswith("12c99dd42")
    assert source.TESTED.revision in caught.value.expected
    assert caught.value.do.startswith("pip install --no-deps")
    assert source.TESTED.revision in caught.value.do


@pytest.fixture
def another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of FastVideo's name with nothing in it."""
    (tmp_path / "fastvideo").mkdir()
    (tmp_path / "fastvideo" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("another_revision")
def test_another_revision_is_refused(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="not the revision that was tested") as caught:
        FastVideoAdapter(tiny, fp32_on_cpu)
    assert source.TESTED.revision in caught.value.expected
    assert "fastvideo+untested-revision" in caught.value.do


@pytest.mark.usefixtures("another_revision")
def test_another_revision_without_the_port_is_refused_whatever_the_options() -> None:
    with pytest.raises(UserError, match="cannot be used"), source.imported(source.TESTED.package(source.PACKAGE)):
        pass


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ({"value_residual": True}, "value_residual: true"),
        ({"prompt_conditioning": None}, "prompt_conditioning: null"),
        ({"ctrl_conditioning": None}, "ctrl_conditioning: null"),
        ({"prompt_embedding_dim": 32}, "prompt_embedding_dim: 32"),
    ],
)
def test_a_geometry_that_the_port_cannot_run_is_refused_by_name(overrides: dict[str, object], found: str) -> None:
    with pytest.raises(UserError, match="cannot run this checkpoint") as caught:
        check_geometry(transformer_config(**{"prompt_embedding_dim": 64, **overrides}))
    assert caught.value.found == found


def test_a_geometry_that_it_can_run_is_not_refused() -> None:
    check_geometry(transformer_config(prompt_embedding_dim=64))


def test_what_a_probe_returns_is_what_the_port_goes_on_with() -> None:
    layer = Probed(nn.Identity(), enter=lambda parts: torch.stack(parts), leave=tuple)
    parts = torch.ones(2), torch.zeros(2)
    assert [part.tolist() for part in layer(parts)] == [[1, 1], [0, 0]]
    layer.probe.register_forward_hook(lambda module, inputs, stacked: stacked + 1)
    assert [part.tolist() for part in layer(parts)] == [[2, 2], [1, 1]]


class _Doubling(nn.Module):
    """A rotation of the port's shape."""

    def forward(self, x: Tensor, positions: dict[str, Tensor]) -> Tensor:
        return x * 2


def test_of_two_rotations_at_the_same_positions_the_first_is_of_the_queries() -> None:
    rotation = ProbedRotation(_Doubling())
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name, probe in (("q", rotation.q_rope), ("k", rotation.k_rope)):
        probe.register_forward_hook(lambda module, inputs, output, name=name: seen.append((name, tuple(output.shape))))
    for _ in range(2):
        positions: dict[str, Tensor] = {}
        queries = rotation(torch.ones(1, 4, 2, 32), positions)
        rotation(torch.ones(1, 4, 1, 32), positions)
    assert seen == [("q", (1, 2, 4, 32)), ("k", (1, 1, 4, 32))] * 2
    assert queries.shape == (1, 4, 2, 32)
    assert torch.equal(queries, torch.full((1, 4, 2, 32), 2.0))
