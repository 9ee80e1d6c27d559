"""Loading under a shadow: what is known beforehand, and whether everything could be followed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed, is_followed, load_shadowed
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import At, Key, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps


class ThroughNumpy(CandidateAdapter):
    """One block's values go through NumPy, where no shadow follows them."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.model.layers[1].mlp.register_forward_hook(
            lambda module, inputs, shown: torch.from_numpy(np.copy(shown.numpy()))
        )


OUTSIDE = f"{__file__}:ThroughNumpy"


@pytest.fixture(params=["eager", "candidate"])
def shadowed(request: pytest.FixtureRequest, tiny: Checkpoint, fp32_on_cpu: Numerics) -> Shadowed:
    return load_shadowed(request.param, tiny, fp32_on_cpu)


def lost(shadowed: Shadowed, scenario: Scenario) -> dict[Key, str | None]:
    """What the shadow says of every observation, inputs apart."""
    found: dict[Key, str | None] = {}

    def see(seen: Observation) -> None:
        if not is_input(seen.key.site):
            found[seen.key] = shadowed.shadow.lost(seen.tensor)

    with Taps(shadowed.adapter.sites(), see) as taps, shadowed.shadow:
        run(shadowed.adapter, scenario, shadowed.checkpoint, taps)
    return found


def test_everything_of_ours_is_followed(shadowed: Shadowed, short: Scenario) -> None:
    assert is_followed(shadowed, short)
    assert not shadowed.shadow.below
    assert not shadowed.shadow.foreign


def test_weights_are_kept_once(shadowed: Shadowed, tiny: Checkpoint) -> None:
    weights = sum(x.numel() for files in tiny.files.values() for _, x in files.stream())
    # Of 8 bytes each: tables, weight norms that were multiplied in, and rings; no copy of the weights.
    assert shadowed.shadow.bytes < 8 * weights


def test_inputs_are_known_once_they_are_expected(shadowed: Shadowed, short: Scenario) -> None:
    early = lost(shadowed, short)
    assert any("from nowhere" in str(reason) for reason in early.values())


def test_the_schedule_of_a_checkpoint_is_an_input_and_no_constant_of_the_code(tmp_path: Path) -> None:
    """Its fp32 numbers are what every implementation is given: exactly those, and not the decimals behind them."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", scheduler_sigmas=[1.0, 0.3, 0.0]))
    scenario = checkpoint.family.make(checkpoint.geometry, name="one frame", seed=1, units=1)
    shown: list[float] = []

    def see(seen: Observation) -> None:
        if seen.key.site == "input.sigma" and seen.exact is not None:
            shown.append(float(seen.exact))

    for name in ("eager", "candidate"):
        load_shadowed(name, checkpoint, Numerics(torch.float32, torch.device("cpu"))).watched(scenario, see)
    assert shown == 2 * [1.0, float(torch.tensor(0.3)), 0.0]


def test_nothing_is_lost_once_inputs_are_expected(shadowed: Shadowed, short: Scenario) -> None:
    shadowed.expect(short)
    assert set(lost(shadowed, short).values()) == {None}


def test_an_expected_tensor_is_known_whole_and_by_unit(shadowed: Shadowed, tiny_scenario: Scenario) -> None:
    shadowed.expect(tiny_scenario)
    noise = tiny_scenario.tensors["noise"]
    for x in (noise.clone(), noise[1].clone(), noise[:1][0].clone()):
        assert shadowed.shadow.lost(x) is None
    assert shadowed.shadow.lost(noise[0] + 1) is not None


def test_values_that_come_through_numpy_are_lost_from_there_on(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
) -> None:
    outside = load_shadowed(OUTSIDE, tiny, fp32_on_cpu)
    outside.expect(short)
    found = lost(outside, short)
    before = Key(0, "denoise", 0, "transformer.blocks.1.attn")
    behind = [Key(0, "denoise", 0, f"transformer.blocks.{block}") for block in (1, 2)]
    assert found[before] is None
    assert all("from nowhere" in str(found[key]) for key in behind)
    assert "from nowhere" in str(found[Key(0, "decode", 0, "decoder.conv_out")])
    assert any(reason.startswith("numpy") for reason in outside.shadow.foreign)
    assert not is_followed(outside, short)


def test_lanes_reach_the_shadow(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    shadow = load_shadowed("eager", tiny, fp32_on_cpu, lanes=2).shadow
    assert shadow.lanes == 3
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    shadow.give([x])
    with shadow, torch.inference_mode():
        y = x * 0.3
    assert torch.equal(shadow.of(y), x.double() * 0.3)
    assert len({tuple(shadow.of(y, lane).tolist()) for lane in range(3)}) == 3


def test_only_the_units_that_are_asked_for_are_followed(shadowed: Shadowed) -> None:
    within = shadowed.following([1])
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    shadowed.shadow.give([x])
    for at, followed in ((None, True), (At(0, "denoise", 0), False), (At(1, "denoise", 0), True)):
        with within(at), torch.inference_mode():
            y = x * 0.3
        assert torch.equal(shadowed.shadow.of(y), y.double()) is not followed
    with shadowed.following()(At(7, "denoise", 0)), torch.inference_mode():
        assert not torch.equal(shadowed.shadow.of(y := x * 0.3), y.double())


def test_every_scenario_is_expected_anew(shadowed: Shadowed, short: Scenario) -> None:
    other = shadowed.checkpoint.family.make(shadowed.checkpoint.geometry, name="other", seed=8, units=1)
    for scenario in (short, other):
        assert is_followed(shadowed, scenario)
        assert not shadowed.shadow.foreign
    # What the last one was not given comes from nowhere.
    lost_of_short = lost(shadowed, short)
    assert any(lost_of_short.values())
    assert shadowed.shadow.foreign
    shadowed.expect(short)
    assert not shadowed.shadow.foreign
