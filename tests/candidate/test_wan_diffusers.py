"""diffusers' WanPipeline against what the official code computed (fixtures/golden/wan)."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("diffusers")

from tests.cli.conftest import run as command
from waypoint_parity.candidate.wan_diffusers.adapter import WanDiffusersAdapter
from waypoint_parity.fixtures.golden_wan import GOLDEN, shown
from waypoint_parity.fixtures.tiny_wan import write_wan
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.exact.shadowed import is_followed, load_shadowed
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import expected_keys, run
from waypoint_parity.harness.run.taps import Observation, Taps

CPU = torch.device("cpu")
# What diffusers computes in fp32 of the timestep, where the official code has fp64; and all else.
TIME_BOUND, BOUND = 1e-5, 5e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_wan(tmp_path_factory.mktemp("wan") / "tiny"))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return read_scenario(GOLDEN / "scenario.safetensors")


@pytest.fixture(scope="module")
def adapter(checkpoint: Checkpoint) -> WanDiffusersAdapter:
    return WanDiffusersAdapter(checkpoint, Numerics(torch.float32, CPU))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "activations.safetensors")


@pytest.fixture(scope="module")
def seen(adapter: WanDiffusersAdapter, scenario: Scenario, checkpoint: Checkpoint) -> dict[str, Tensor]:
    return shown(adapter, scenario, checkpoint)


def test_the_checkpoint_is_the_one_that_was_recorded(checkpoint: Checkpoint, scenario: Scenario) -> None:
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    assert (checkpoint.digest, scenario.digest) == (manifest["checkpoint"], manifest["scenario"])


def test_every_site_agrees(seen: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    assert seen.keys() == golden.keys()
    errors = {name: tensor_error(seen[name], golden[name]).rel_l2 for name in golden if "picture" not in name}
    assert len(errors) > 50
    bounds = {name: TIME_BOUND if "time_" in name else BOUND for name in errors}
    assert {name: error for name, error in errors.items() if not error <= bounds[name]} == {}
    # It is no copy of what was recorded.
    assert max(errors.values()) > 1e-6


@pytest.mark.slow
def test_in_a_process_of_its_own_it_shows_the_same(
    seen: dict[str, Tensor], scenario: Scenario, checkpoint: Checkpoint
) -> None:
    """As values and layouts, and what is put in their place goes on: a release of diffusers runs like this."""
    command = f"command: {sys.executable} -m waypoint_parity worker wan-diffusers"
    remote = registry.load(command, checkpoint, Numerics(torch.float32, CPU))
    found = shown(remote, scenario, checkpoint)
    with Taps(remote.sites(), lambda seen: seen.tensor.clone() if seen.key.site == "velocity" else None) as taps:
        run(remote, scenario, checkpoint, taps)
    assert taps.refused == set()
    assert found.keys() == seen.keys()
    assert [name for name in seen if not torch.equal(found[name], seen[name])] == []


def test_pictures_are_within_one_level(seen: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    pictures = [name for name in golden if name.endswith("picture")]
    assert [golden[name].shape[0] for name in sorted(pictures)] == [1, 4, 4]
    assert max(int((seen[name].int() - golden[name].int()).abs().max()) for name in pictures) <= 1


def test_every_site_of_every_pass_is_shown(
    adapter: WanDiffusersAdapter, scenario: Scenario, checkpoint: Checkpoint
) -> None:
    keys = []
    with Taps(adapter.sites(), lambda seen: keys.append(seen.key), replaces=False) as taps:
        run(adapter, scenario, checkpoint, taps)
    assert len(keys) == len(set(keys))
    assert set(keys) == set(expected_keys(scenario, checkpoint, optional=("guided", "video")))


def test_its_own_schedule_is_another_one(checkpoint: Checkpoint, scenario: Scenario) -> None:
    """From release 0.37 on; see docs/wan.md."""
    adapter = WanDiffusersAdapter(checkpoint, Numerics(torch.float32, CPU, options=("own-schedule",)))
    timesteps = []

    def keep(seen: Observation) -> None:
        if seen.key.site == "input.timestep" and seen.key.branch == "cond":
            timesteps.append(int(seen.tensor))

    with Taps(adapter.sites(), keep, replaces=False) as taps:
        run(adapter, scenario, checkpoint, taps)
    assert timesteps == [999, 900, 750, 500]
    assert scenario["timesteps"].tolist() == [999, 899, 749, 499]


def test_a_latent_that_is_put_in_place_is_what_goes_on(
    adapter: WanDiffusersAdapter, scenario: Scenario, checkpoint: Checkpoint
) -> None:
    last = scenario["timesteps"].shape[0] - 1
    found: dict[str, Tensor] = {}

    def put(seen: Observation) -> Tensor | None:
        if seen.key.site == "unscaled":
            found["unscaled"] = seen.tensor.clone()
        return torch.zeros_like(seen.tensor) if seen.key.site == "latent" and seen.key.step == last else None

    with Taps(adapter.sites(), put) as taps:
        run(adapter, scenario, checkpoint, taps)
    mean = torch.tensor(checkpoint.geometry.autoencoder.latents_mean).view(1, -1, 1, 1, 1)
    assert taps.refused == set()
    assert torch.allclose(found["unscaled"], mean.expand_as(found["unscaled"]))


def test_its_exact_shadow_sees_everything(checkpoint: Checkpoint, scenario: Scenario) -> None:
    name = "waypoint_parity.candidate.wan_diffusers.adapter:WanDiffusersAdapter"
    short = scenario.with_tensors(timesteps=scenario["timesteps"][:2], sigmas=scenario["sigmas"][[0, 1, 4]])
    shadowed = load_shadowed(name, checkpoint, Numerics(torch.float32, CPU))
    shadowed.expect(short)
    assert is_followed(shadowed, short)
    assert (dict(shadowed.shadow.below), dict(shadowed.shadow.foreign)) == ({}, {})


def test_what_the_pipeline_does_behind_the_decoder_is_seen(
    adapter: WanDiffusersAdapter, scenario: Scenario, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def video() -> Tensor:
        found: list[Tensor] = []

        def keep(seen: Observation) -> None:
            if seen.key.site == "video":
                found.append(seen.tensor.clone())

        with Taps(adapter.sites(), keep, replaces=False) as taps:
            run(adapter, scenario, checkpoint, taps)
        (made,) = found
        return made

    right = video()
    assert right.shape == (1, 3, 9, 32, 48)
    processor = adapter._pipeline.video_processor
    made = processor.postprocess_video
    monkeypatch.setattr(processor, "postprocess_video", lambda *given, **more: made(*given, **more).flip(1))
    assert tensor_error(video(), right).rel_l2 > 1e-2


def test_its_dump_has_no_mistake(checkpoint: Checkpoint, tmp_path: Path) -> None:
    given = ("--checkpoint", checkpoint.folder, "--scenario", GOLDEN / "scenario.safetensors")
    assert command("dump", "wan-diffusers", *given, "--out", tmp_path / "dump").code == 0
    checked = command("check-dump", tmp_path / "dump", *given)
    assert checked.code == 0, checked.out
