import multiprocessing

import numpy as np
import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.play.pair import Pair, controls_of
from waypoint_parity.harness.families.waypoint.play.player import PlayerError, Role
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures

# Of the tiny checkpoint.
BUTTONS = 4
FORWARD, LEFT = controls_of({"buttons": [1]}, BUTTONS), controls_of({"mouse": [-0.5, 0]}, BUTTONS)
IDLE = controls_of({}, BUTTONS)


def test_both_are_given_the_same_and_show_the_same(pair: Pair) -> None:
    for controls in (FORWARD, LEFT):
        reference, candidate = pair.step(controls)
        assert reference.pixels.shape == candidate.pixels.shape == (360, 640, 3)
        assert np.abs(reference.pixels.astype(int) - candidate.pixels).max() <= 1
        assert min(reference.seconds, candidate.seconds) > 0


def test_what_was_walked_is_a_scenario_that_shows_it_again(pair: Pair, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    walked = [pair.step(controls)[0].pixels for controls in (FORWARD, LEFT, FORWARD)]
    scenario = pair.recorded()
    tiny.family.check(scenario, tiny.geometry)
    assert scenario.units == 3
    assert scenario["button"][:, 1].tolist() == [1, 0, 1]
    assert scenario["mouse"][:, 0].tolist() == [0, -0.5, 0]
    adapter = registry.load("eager", tiny, fp32_on_cpu)
    with decoded_pictures(adapter, tiny.family) as again:
        run(adapter, scenario, tiny)
    assert all(np.array_equal(one, other) for one, other in zip(walked, again, strict=True))


def test_controls_change_what_is_seen(pair: Pair) -> None:
    before = pair.step(FORWARD)[0].pixels
    pair.restart(pair.recorded().seed)
    assert pair.frames == 0
    assert np.array_equal(pair.step(FORWARD)[0].pixels, before)
    pair.restart(pair.recorded().seed)
    assert not np.array_equal(pair.step(LEFT)[0].pixels, before)


def test_another_seed_is_other_noise(pair: Pair) -> None:
    before = pair.step(FORWARD)[0].pixels
    pair.restart(99)
    assert not np.array_equal(pair.step(FORWARD)[0].pixels, before)
    assert pair.recorded().seed == 99


def test_before_the_first_frame_there_is_nothing_to_keep(pair: Pair) -> None:
    with pytest.raises(UserError, match="nothing to keep"):
        pair.recorded()


def test_controls_are_what_a_scenario_holds() -> None:
    controls = controls_of({"buttons": [2, 15], "mouse": [0.25, -3]}, 16)
    assert controls.button.nonzero().flatten().tolist() == [2, 15]
    assert torch.equal(controls.mouse, torch.tensor([0.25, -1.0]))
    assert controls.scroll.tolist() == [0]


@pytest.mark.parametrize(
    "given",
    [
        {"buttons": [16]},
        {"buttons": [-1]},
        {"buttons": ["w"]},
        {"buttons": [True]},
        {"buttons": 1},
        {"mouse": [1]},
        {"mouse": ["left", 0]},
        {"mouse": 1},
    ],
)
def test_what_are_no_controls_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match="no controls"):
        controls_of(given, 16)


def test_an_implementation_that_cannot_be_played_is_refused_as_in_this_process(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    roles = [
        Role(name, tiny, fp32_on_cpu)
        for name in ("eager", "tests.harness.families.waypoint.play.implementations:Blind")
    ]
    before = set(multiprocessing.active_children())
    with pytest.raises(UserError, match="Blind: shows no frames") as refused, Pair(roles[0], roles[1], tiny_scenario):
        pass
    assert refused.value.do == "map it in the adapter's sites()"
    assert set(multiprocessing.active_children()) == before


def test_a_failure_of_one_leaves_no_answer_of_the_other_behind(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    roles = [
        Role(name, tiny, fp32_on_cpu)
        for name in ("tests.harness.families.waypoint.play.implementations:Stumbling", "eager")
    ]
    with Pair(roles[0], roles[1], tiny_scenario) as pair:
        with pytest.raises(PlayerError, match="stumbled over a turn"):
            pair.step(LEFT)
        pair.restart(tiny_scenario.seed)
        reference, candidate = pair.step(IDLE)
        assert np.array_equal(reference.pixels, candidate.pixels)
        for _ in range(2):
            with pytest.raises(PlayerError, match="its process is gone, with exit code 7"):
                pair.step(FORWARD)


def test_a_scenario_that_does_not_fit_is_refused(
    base: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    role = Role("eager", base, fp32_on_cpu)
    with pytest.raises(UserError, match="does not fit"):
        Pair(role, role, tiny_scenario)
