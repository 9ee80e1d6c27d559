"""A port that only shows its values is told from one that goes on with what is put in their place."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import nn

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.conftest import Cases, Searching
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.arrival import Sealed, idle_sites
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.reference.eager.adapter import EagerAdapter

Idle = Callable[[Adapter], set[str]]
MLPS = "transformer.blocks.{}.mlp"


class Showing(CandidateAdapter):
    """Hands what some of its sites show, or all, to probes, whose results nothing reads."""

    SHOWN_ONLY: tuple[str, ...] = ()
    CHANGES: tuple[Callable[[Any], None], ...] = ()

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self._own, self._probes = super().sites(), dict[str, nn.Module]()
        for change in self.CHANGES:
            change(self)
        self._probes = {name: nn.Identity() for name in self.SHOWN_ONLY or self._own}
        for name, probe in self._probes.items():
            self._own[name].module.register_forward_hook(self._shows(self._own[name], probe))

    @staticmethod
    def _shows(site: Site, probe: nn.Module) -> Callable[..., None]:
        def show(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            probe(site.shown(output, inputs))

        return show

    def sites(self) -> Mapping[str, Site]:
        return {**self._own, **{name: Site(probe) for name, probe in self._probes.items()}}


class ShowingMlps(Showing):
    SHOWN_ONLY = tuple(MLPS.format(block) for block in range(3))


class ShowingTwoFaults(Showing):
    """Is too fast, and in block 1 too loud."""

    CHANGES = (candidates.faster, candidates.louder)


@pytest.fixture
def idle(tiny: Checkpoint, fp32_on_cpu: Numerics, tiny_scenario: Scenario) -> Idle:
    def of(candidate: Adapter) -> set[str]:
        return idle_sites(candidate, EagerAdapter(tiny, fp32_on_cpu), tiny, tiny_scenario)

    return of


def test_where_every_value_arrives_nothing_is_idle(idle: Idle, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    assert idle(CandidateAdapter(tiny, fp32_on_cpu)) == set()


def test_what_is_only_shown_is_idle(idle: Idle, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    assert idle(ShowingMlps(tiny, fp32_on_cpu)) == set(ShowingMlps.SHOWN_ONLY)


def test_nothing_arrives_in_a_port_that_shows_everything_only(
    idle: Idle, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    found = idle(Showing(tiny, fp32_on_cpu))
    assert {"velocity", "transformer.blocks.0", "transformer.blocks.1.attn.q_proj", "latent"} <= found


def test_what_is_idle_can_be_watched_and_not_patched(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    candidate = CandidateAdapter(tiny, fp32_on_cpu)
    sites = Sealed(candidate, {"velocity"}).sites()
    assert {name for name, site in candidate.sites().items() if site.is_patchable and not sites[name].is_patchable} == {
        "velocity"
    }


def test_the_causes_in_a_port_that_only_shows_are_those_that_it_has(case: Cases, search: Searching) -> None:
    blame = search(case(candidate=candidates.named(ShowingTwoFaults)))
    assert {(cause.part, tuple(cause.blocks or ())) for cause in blame.causes} == {("velocity", ()), ("mlp", (1,))}
    assert blame.fed == "reference"
    assert "sites that only show their values" in blame.unmeasured[-1]
