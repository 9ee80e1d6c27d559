from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness.implementations import Shy
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE, Controls, Prompt
from waypoint_parity.harness.record.observer import NO_EFFECT, OUTLIVES, check_observer, observer_effect
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.reference.eager.adapter import EagerAdapter


class Unseen(EagerAdapter):
    """Shows nothing."""

    def sites(self) -> Mapping[str, Site]:
        return {}


class Undecided(EagerAdapter):
    """Never computes the same twice."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        return super().generate(noise + torch.randn_like(noise), controls)


class Passes(EagerAdapter):
    """Counts the passes that it was asked for."""

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        self.begun: list[str] = []
        return self._counted(super().start(prompt, sigmas))

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        return self._counted(super().append_image(image))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        return self._counted(super().generate(noise, controls))

    def _counted(self, passes: Iterator[Pass]) -> Iterator[Pass]:
        for at in passes:
            yield at
            self.begun.append(f"{at.phase}{at.step}")


def effect(implementation: type[EagerAdapter], checkpoint: Checkpoint, scenario: Scenario, numerics: Numerics) -> Any:
    adapter = implementation(checkpoint, numerics)
    return observer_effect(adapter, scenario, checkpoint, adapter.sites())


@pytest.mark.parametrize("name", ["eager", "candidate"])
@pytest.mark.parametrize("image", [None, torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)], ids=["noise", "image"])
def test_recording_changes_no_bit_of_what_our_own_compute(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, name: str, image: Tensor | None
) -> None:
    adapter = find(name)(tiny, fp32_on_cpu)
    scenario = tiny_scenario.with_tensors(image=image)
    assert observer_effect(adapter, scenario, tiny, adapter.sites()) is None


def test_hooks_that_change_what_is_computed_are_found(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    found = effect(Shy, tiny, tiny_scenario, fp32_on_cpu)
    assert found.startswith("u0/denoise0/latent: ")
    assert "elements differ, by up to" in found


def test_an_implementation_that_is_not_deterministic_is_found(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    assert "elements differ" in effect(Undecided, tiny, tiny_scenario, fp32_on_cpu)


def test_to_see_nothing_is_no_proof(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> None:
    assert "nothing can be compared" in effect(Unseen, tiny, tiny_scenario, fp32_on_cpu)


def test_only_the_first_pass_is_run(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> None:
    adapter = Passes(tiny, fp32_on_cpu)
    assert observer_effect(adapter, tiny_scenario, tiny, adapter.sites()) is None
    assert adapter.begun == ["prompt0", "denoise0"]


def test_no_hook_is_left_behind(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> None:
    adapter = EagerAdapter(tiny, fp32_on_cpu)
    observer_effect(adapter, tiny_scenario, tiny, adapter.sites())
    assert not any(site.module._forward_hooks for site in adapter.sites().values())


def test_an_effect_refuses_the_run_unless_it_is_allowed(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    adapter = Shy(tiny, fp32_on_cpu)
    with pytest.raises(UserError, match="recording changes what") as error:
        check_observer(adapter, tiny_scenario, tiny, adapter.sites())
    assert "u0/denoise0/latent" in error.value.found
    assert "--allow-observer-effect" in error.value.do
    assert check_observer(adapter, tiny_scenario, tiny, adapter.sites(), allow=True) == error.value.found


def test_what_outlives_a_session_is_no_effect_of_recording(tmp_path: Path, fp32_on_cpu: Numerics) -> None:
    second = open_checkpoint(write_waypoint_15(tmp_path / "checkpoint"))
    scenario = second.family.make(second.geometry, name="seeded", seed=1, units=1)
    seeded = scenario.with_tensors(image=torch.arange(64 * 128 * 3).reshape(64, 128, 3).to(torch.uint8))
    adapter = CandidateAdapter(second, fp32_on_cpu)
    adapter.engine.autoencoder.encoder.reset = lambda: None  # type: ignore[method-assign]
    with pytest.raises(UserError) as error:
        check_observer(adapter, seeded, second, adapter.sites())
    assert error.value.found.endswith(OUTLIVES)
    assert "recording" not in error.value.what


def test_a_run_without_an_effect_says_so(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> None:
    adapter = EagerAdapter(tiny, fp32_on_cpu)
    assert check_observer(adapter, tiny_scenario, tiny, adapter.sites()) == NO_EFFECT
