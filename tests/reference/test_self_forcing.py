"""The driver of Self-Forcing: where it is absent, and where it is there."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from waypoint_parity.fixtures.golden_causal_wan import GOLDEN, scenario_of, shown
from waypoint_parity.fixtures.tiny_causal_wan import write_causal_wan
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.scenario import schedule
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.reference.causal_wan import package
from waypoint_parity.reference.causal_wan.adapter import SelfForcingAdapter

IS_THERE = any((Path(entry or ".") / "wan" / "modules" / "causal_model.py").is_file() for entry in sys.path)
there = pytest.mark.skipif(not IS_THERE, reason="needs a clone of Self-Forcing on PYTHONPATH")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_causal_wan(tmp_path_factory.mktemp("causal") / "tiny"))


def build(checkpoint: Checkpoint, dtype: str = "fp32", *options: str) -> SelfForcingAdapter:
    return SelfForcingAdapter(checkpoint, Numerics(DTYPES[dtype], torch.device("cpu"), options=options))


def test_absent_code_is_named_with_its_revision(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.revision in error.value.expected
    assert package.TESTED.revision in error.value.do


def test_another_revision_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wan" / "modules").mkdir(parents=True)
    (tmp_path / "wan" / "modules" / "causal_model.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.digest in error.value.expected
    # Asked to, it is run all the same, and has not what is needed.
    with pytest.raises(UserError) as error:
        build(checkpoint, "fp32", UNTESTED)
    assert "causal_inference" in error.value.found
    assert not {"wan", "pipeline", "utils", "demo_utils"} & set(sys.modules)


def test_bf16_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="fp32"):
        build(checkpoint, "bf16")


@there
def test_it_computes_what_was_recorded(checkpoint: Checkpoint) -> None:
    golden, modules = load_file(GOLDEN / "activations.safetensors"), set(sys.modules)
    adapter = build(checkpoint)
    assert {name.partition(".")[0] for name in set(sys.modules) - modules} & {"wan", "pipeline", "utils"} == set()
    seen = shown(adapter, read_scenario(GOLDEN / "scenario.safetensors"), checkpoint)
    assert seen.keys() == golden.keys()
    far = {name for name in golden if not torch.allclose(seen[name].double(), golden[name].double(), 1e-5, 1e-5)}
    assert far == set()


@there
def test_a_latent_with_more_tokens_than_it_attends_to_is_refused(checkpoint: Checkpoint) -> None:
    scenario = scenario_of(checkpoint)
    large = scenario.with_tensors(noise=torch.zeros(1, 2, 16, 1, 80, 80))
    with pytest.raises(UserError) as error:
        run(build(checkpoint), large, checkpoint)
    assert "1600" in error.value.found


@there
@pytest.mark.parametrize(("steps", "shift"), [(4, 5.0), (2, 8.0)])
def test_its_own_schedule_is_ours(steps: int, shift: float) -> None:
    with package.imported() as code:
        scheduler = code.wrapper.FlowMatchScheduler(shift=shift, sigma_min=0.0, extra_one_step=True)
        scheduler.set_timesteps(1000, training=True)
    listed = torch.tensor([1000 * (steps - step) // steps for step in range(steps)])
    warped = torch.cat([scheduler.timesteps, torch.zeros(1)])[1000 - listed]
    timesteps, sigmas = schedule(steps, shift)
    assert torch.equal(timesteps, warped)
    assert torch.equal(sigmas, scheduler.sigmas[1000 - listed])
