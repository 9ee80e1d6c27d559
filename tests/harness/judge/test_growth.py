"""A free run that is further off than rounding grows to, though no site is wrong by itself, is not explained."""

from collections.abc import Callable, Mapping

import pytest

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed, load_shadowed
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.growth import LANES, growth
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.precision import PrecisionRun, precision_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys

Compare = Callable[[Mapping[Key, float] | None], Comparison]
SITE = "transformer.blocks.0.attn.v_proj"


@pytest.fixture(scope="module")
def disturbed(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Shadowed:
    return load_shadowed("eager", tiny, fp32_on_cpu, lanes=LANES)


@pytest.fixture(scope="module")
def grown(disturbed: Shadowed, tiny_scenario: Scenario) -> dict[Key, float]:
    return growth(disturbed, tiny_scenario)


@pytest.fixture(scope="module")
def candidate(tiny: Checkpoint, fp32_on_cpu: Numerics) -> CandidateAdapter:
    """Followed by nobody, as an engine without torch is."""
    return CandidateAdapter(tiny, fp32_on_cpu)


@pytest.fixture(scope="module")
def local(disturbed: Shadowed, candidate: CandidateAdapter, tiny: Checkpoint, tiny_scenario: Scenario) -> PrecisionRun:
    """Nothing is wrong by itself."""
    found = precision_run(disturbed, candidate, tiny, tiny_scenario, [0], everywhere=True)
    assert found.precision.holds
    return found


@pytest.fixture
def compared(
    tiny: Checkpoint,
    tiny_scenario: Scenario,
    fp32_on_cpu: Numerics,
    candidate: CandidateAdapter,
    local: PrecisionRun,
) -> Compare:
    reference = load_shadowed("eager", tiny, fp32_on_cpu)

    def compare(grows: Mapping[Key, float] | None) -> Comparison:
        reference.expect(tiny_scenario)
        sides = Side("eager", reference.adapter, shadow=reference.shadow), Side("candidate", candidate)
        judgement = Judgement(fixed_tolerance(tiny.family, "fp32"))
        return lockstep(*sides, tiny, tiny_scenario, judgement, local=local, grows=grows)

    return compare


def test_every_observation_that_is_computed_grows(
    grown: dict[Key, float], tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    latents = [spread for key, spread in grown.items() if key.site == "latent"]
    assert len(latents) == 4
    assert all(1e-8 < spread < 1e-4 for spread in latents)
    computed = {key for key in expected_keys(tiny_scenario, tiny) if not is_input(key.site)}
    assert len(grown.keys() & computed) > len(computed) / 2


def test_what_rounding_grows_to_is_explained(compared: Compare, grown: dict[Key, float]) -> None:
    assert compared(grown)


def test_a_state_that_no_site_shows_is_not(
    compared: Compare, candidate: CandidateAdapter, grown: dict[Key, float]
) -> None:
    """What the session does was not so when its sites were judged by themselves."""
    hook = candidate.sites()[SITE].module.register_forward_hook(lambda module, inputs, shown: shown * 1.001)
    with hook:
        found = compared(grown)
        assert found.verdict is Verdict.UNEXPLAINED
        assert not found
        assert found.first is not None
        print(found.first)
        assert found.first.site == SITE
        assert found.counts[Verdict.UNEXPLAINED] == sum(rung.failed for rung in found.sites)
        # Where nobody asked, and where rounding grows so far.
        assert compared(None)
        assert compared(dict.fromkeys(grown, 1.0))
