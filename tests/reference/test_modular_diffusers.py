"""What holds of the adapter of modular pipelines without diffusers; tests/official runs a pipeline."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.reference.modular_diffusers.adapter import ModularDiffusersAdapter, pressed
from waypoint_parity.reference.modular_diffusers.pipeline import PIP_LINE, TESTED_VERSION, TRUST, identity

REVISION = "93fe14eed217bb09c0244a9d91b2b3e88c3de181"


class TestTrust:
    def test_remote_code_is_not_run_without_leave(self, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
        with pytest.raises(UserError, match="code that comes with the weights") as caught:
            ModularDiffusersAdapter(tiny, fp32_on_cpu)
        assert caught.value.expected == "diffusers+trust-remote-code"

    def test_the_code_on_the_hub_is_told_by_its_revision(self) -> None:
        assert identity(f"Overworld/Waypoint-1-Small@{REVISION}") == f"Overworld/Waypoint-1-Small@{REVISION}"

    def test_the_code_in_a_folder_is_told_by_its_digest(self, tmp_path: Path) -> None:
        (tmp_path / "modular_blocks.py").write_text("STEPS = 4")
        before = identity(str(tmp_path))
        assert identity(str(tmp_path)) == before
        (tmp_path / "modular_blocks.py").write_text("STEPS = 3")
        assert identity(str(tmp_path)) != before


def test_without_diffusers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="not installed") as caught:
        ModularDiffusersAdapter(tiny, replace(fp32_on_cpu, options=(TRUST,)))
    assert TESTED_VERSION in caught.value.expected
    assert caught.value.do == PIP_LINE
    assert f"diffusers=={TESTED_VERSION}" in PIP_LINE


class TestButtons:
    def test_those_that_are_down_are_named_by_their_ids(self) -> None:
        assert pressed(torch.tensor([0.0, 1.0, 0.0, 1.0])) == {1, 3}
        assert pressed(torch.zeros(4)) == set()

    def test_one_that_is_half_down_is_refused(self) -> None:
        with pytest.raises(UserError, match="by their ids"):
            pressed(torch.tensor([0.0, 0.5]))
