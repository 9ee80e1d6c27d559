"""The other numerics in which Waypoint 1.5 is published: two biases a block, exact tables, a narrow sampler."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Taps

HEAD = "transformer.blocks.{}.cond_head"
FORM = "eager+diffusers-form"


@pytest.fixture(scope="module")
def two_biases(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint whose conditioning heads are published with two biases that differ."""
    folder = write_waypoint_15(tmp_path_factory.mktemp("two") / "checkpoint")
    file = folder / "transformer" / WEIGHTS_NAME
    weights = load_file(file)
    for layer in range(4):
        bias = weights.pop(f"{HEAD.format(layer)}.bias_in")
        block = f"transformer.blocks.{layer}."
        weights |= {f"{block}attn_cond_head.bias_in": bias + 1, f"{block}mlp_cond_head.bias_in": bias}
    save_file(weights, file)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def one_frame(two_biases: Checkpoint) -> Scenario:
    return two_biases.family.make(two_biases.geometry, name="one frame", seed=1, units=1)


def shown(name: str, checkpoint: Checkpoint, scenario: Scenario, dtype: str) -> dict[Key, Tensor]:
    adapter = load(name, checkpoint, Numerics(DTYPES[dtype], torch.device("cpu")))
    found: dict[Key, Tensor] = {}
    with Taps(adapter.sites(), lambda seen: found.update({seen.key: seen.tensor.clone()})) as taps:
        run(adapter, scenario, checkpoint, taps)
    return found


def denoise(site: str, step: int = 0) -> Key:
    return Key(0, "denoise", step, site)


def test_each_half_of_a_head_has_its_own_bias(two_biases: Checkpoint, one_frame: Scenario) -> None:
    form, package = (shown(name, two_biases, one_frame, "fp32") for name in (FORM, "eager"))
    for layer in range(4):
        key = denoise(HEAD.format(layer))
        torch.testing.assert_close(form[key][3:], package[key][3:])
        assert not form[key][:3].allclose(package[key][:3])


def test_tables_are_exact_in_bf16(two_biases: Checkpoint, one_frame: Scenario) -> None:
    form, package, exact = (
        shown(name, two_biases, one_frame, dtype) for name, dtype in ((FORM, "bf16"), ("eager", "bf16"), (FORM, "fp32"))
    )
    angles = denoise("transformer.rope_angles")
    assert form[angles].equal(exact[angles])
    assert not package[angles].equal(exact[angles])
    # At sigma 1, which bf16 holds, only the rounding at the end is left.
    cond = denoise("denoise_step_emb")
    assert form[cond].equal(exact[cond].bfloat16())
    assert not package[cond].equal(exact[cond].bfloat16())


def test_the_sampler_adds_in_the_models_dtype(two_biases: Checkpoint, one_frame: Scenario) -> None:
    form = shown(FORM, two_biases, one_frame, "bf16")
    sigmas = torch.tensor(two_biases.geometry.transformer.scheduler_sigmas).bfloat16()
    before, velocity = form[denoise("latent")], form[denoise("velocity", 1)]
    assert form[denoise("latent", 1)].equal(before + sigmas.diff()[1] * velocity)


def test_it_is_refused_for_waypoint_1(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError):
        load(FORM, tiny, fp32_on_cpu)


def test_a_checkpoint_of_either_spelling_is_accepted(tmp_path: Path, one_frame: Scenario) -> None:
    """Where one bias is all that there is, it is that of both halves."""
    checkpoint = open_checkpoint(write_waypoint_15(tmp_path / "checkpoint"))
    form, package = (shown(name, checkpoint, one_frame, "fp32") for name in (FORM, "eager"))
    torch.testing.assert_close(form, package)
