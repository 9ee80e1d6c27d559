"""diffusers' trunk of HY-WorldPlay against what the vendor's code computed (fixtures/golden/hy_worldplay)."""

import json

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from waypoint_parity.candidate.hy_worldplay_diffusers.adapter import HyWorldPlayDiffusersAdapter
from waypoint_parity.fixtures.golden_hy_worldplay import GOLDEN, checkpoint_in, scenario_of, shown
from waypoint_parity.fixtures.tiny_hy_worldplay import write_hy_worldplay
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint_in(tmp_path_factory.mktemp("hy") / "tiny")


def test_it_computes_what_the_vendor_does(checkpoint: Checkpoint) -> None:
    scenario = scenario_of(checkpoint)
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    assert (checkpoint.digest, scenario.digest) == (manifest["checkpoint"], manifest["scenario"])
    expected = load_file(GOLDEN / "values.safetensors")
    found = shown(HyWorldPlayDiffusersAdapter(checkpoint, Numerics(torch.float32, CPU)), scenario, checkpoint)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if "picture" in name:
            assert (found[name].int() - values.int()).abs().max() <= 1
        elif values.is_floating_point():
            assert tensor_error(found[name], values).rel_l2 < 5e-6, name
        else:
            assert torch.equal(found[name], values), name


def test_a_checkpoint_with_camera_and_action_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    conditioned = open_checkpoint(write_hy_worldplay(tmp_path_factory.mktemp("hy") / "camera", num_layers=1))
    with pytest.raises(UserError) as error:
        HyWorldPlayDiffusersAdapter(conditioned, Numerics(torch.float32, CPU))
    assert "to_out_prope" in error.value.found or "action_embedder" in error.value.found
