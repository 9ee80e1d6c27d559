"""The driver of the official Wan 2.1: where it is absent, and where it is there."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from waypoint_parity.fixtures.golden_wan import GOLDEN, shown
from waypoint_parity.fixtures.tiny_wan import write_wan
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.scenario import schedule
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.reference.wan import package
from waypoint_parity.reference.wan.adapter import WanOfficialAdapter, attention, fp32_sinusoid

# Other projects have a package of this name.
FOUND = importlib.util.find_spec("wan")
IS_THERE = FOUND is not None and package.TESTED.is_in(Path(FOUND.origin or "").parent)
there = pytest.mark.skipif(not IS_THERE, reason="needs a clone of Wan2.1 on PYTHONPATH")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_wan(tmp_path_factory.mktemp("wan") / "tiny"))


def build(checkpoint: Checkpoint, dtype: str = "fp32", *options: str) -> WanOfficialAdapter:
    return WanOfficialAdapter(checkpoint, Numerics(DTYPES[dtype], torch.device("cpu"), options=options))


def test_an_absent_package_is_named_with_its_revision(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.revision in error.value.expected
    assert package.TESTED.revision in error.value.do


def test_another_revision_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wan", raising=False)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert package.TESTED.digest in error.value.expected
    # Asked to, it is run all the same, and has not what is needed.
    with pytest.raises(UserError) as error:
        build(checkpoint, "fp32", UNTESTED)
    assert "text2video" in error.value.found


def test_bf16_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match="fp32"):
        build(checkpoint, "bf16")


def test_attention_hides_what_lies_behind_the_lengths() -> None:
    drawn = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, length, 2, 8, generator=drawn) for length in (5, 7, 7))
    whole = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k[:, :4], v[:, :4])))
    cut = attention(q, k, v, k_lens=torch.tensor([4]))
    assert torch.allclose(cut, whole.transpose(1, 2), atol=1e-6)
    assert not torch.allclose(attention(q, k, v, k_lens=torch.tensor([7])), cut, atol=1e-3)


@there
def test_it_computes_what_was_recorded(checkpoint: Checkpoint) -> None:
    golden, modules = load_file(GOLDEN / "activations.safetensors"), set(sys.modules)
    adapter = build(checkpoint)
    assert {name for name in set(sys.modules) - modules if name.partition(".")[0] == "wan"} == set()
    seen = shown(adapter, read_scenario(GOLDEN / "scenario.safetensors"), checkpoint)
    assert seen.keys() == golden.keys()
    far = {name for name in golden if not torch.allclose(seen[name].double(), golden[name].double(), 1e-5, 1e-5)}
    assert far == set()


@there
def test_phases_in_fp32_are_the_same_within_their_rounding(checkpoint: Checkpoint) -> None:
    with package.imported() as wan:
        timesteps = torch.tensor([999, 899, 20])
        exact, ours = wan.model.sinusoidal_embedding_1d(256, timesteps), fp32_sinusoid(256, timesteps)
    assert ours.dtype is torch.float32
    distance = (ours.double() - exact).norm() / exact.norm()
    assert 1e-7 < distance < 2e-5


@there
@pytest.mark.parametrize(("steps", "shift"), [(4, 3.0), (20, 5.0), (50, 5.0), (50, 3.0)])
def test_its_own_schedule_is_ours(checkpoint: Checkpoint, steps: int, shift: float) -> None:
    with package.imported() as wan:
        scheduler = wan.pipeline.FlowUniPCMultistepScheduler(
            num_train_timesteps=1000, shift=1, use_dynamic_shifting=False
        )
        scheduler.set_timesteps(steps, device="cpu", shift=shift)
    timesteps, sigmas = schedule(steps, shift)
    assert torch.equal(scheduler.timesteps, timesteps)
    assert torch.equal(scheduler.sigmas, sigmas)
    assert isinstance(wan.pipeline, types.ModuleType)
