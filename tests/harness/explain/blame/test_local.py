from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.candidates import LOUD, LOUDER, TABLE, hooks
from tests.harness.observations import FAMILY
from tests.harness.rollouts import OtherSlot
from tests.parity.faulty import CachePassSkipped
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.faults.inputs import three_steps
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.local import LocalErrors, local_errors, must_be_reversed
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE, of_frames
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.keys import At, Key, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys
from waypoint_parity.reference.eager.adapter import EagerAdapter

Measured = Callable[..., LocalErrors]
# In fp32 no right part is further from another right part by itself; measured: up to 1e-6.
ROUNDING = 3e-6


@pytest.fixture(scope="module")
def measure(eager: EagerAdapter, tiny: Checkpoint, one_frame: Scenario) -> Measured:
    """The local errors of a candidate."""

    def measured(candidate: Adapter, *, scenario: Scenario = one_frame, reverse: bool = False) -> LocalErrors:
        return local_errors(eager, candidate, tiny, scenario, reverse=reverse)

    return measured


@pytest.fixture(scope="module")
def candidate(tiny: Checkpoint, fp32_on_cpu: Numerics) -> Callable[..., CandidateAdapter]:
    """A fresh candidate, changed."""

    def changed(*changes: Callable[[Any], None]) -> CandidateAdapter:
        made = CandidateAdapter(tiny, fp32_on_cpu)
        for change in changes:
            change(made)
        return made

    return changed


@pytest.fixture(scope="module")
def longest(tiny_scenario: Scenario) -> Scenario:
    """A session of every phase: a seed image, then two frames."""
    image = torch.randint(0, 256, IMAGE_SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return tiny_scenario.with_tensors(image=image)


def wrong(local: LocalErrors) -> set[str]:
    """The sites with errors of their own."""
    return {key.site for key, error in local.errors.items() if error.rel_l2 > ROUNDING and key.site != "frame"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_right_candidate_rounds_otherwise_at_every_site_of_every_phase_and_no_more(
    measure: Measured, candidate: Callable[..., CandidateAdapter], tiny: Checkpoint, longest: Scenario, reverse: bool
) -> None:
    right = candidate()
    local = measure(right, scenario=longest, reverse=reverse)
    assert local.errors.keys() == set(expected_keys(longest, tiny, optional=right.sites().keys()))
    assert not local.lacking
    assert not local.alone
    for key, error in local.errors.items():
        exact = is_input(key.site) or TABLE.is_mask(key.site)
        assert error.rel_l2 <= (0.0 if exact else 1e-3 if key.site == "frame" else ROUNDING), str(key)
    latent = Key(1, "denoise", 1, "latent")
    assert (local.roundoff[latent], local.roundoff[latent._replace(site="input.timestamp")]) == (2**-24, 0.0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_fault_shows_where_it_is_and_nowhere_after_it(
    measure: Measured, candidate: Callable[..., CandidateAdapter], reverse: bool
) -> None:
    local = measure(candidate(candidates.louder, candidates.faster), reverse=reverse)
    assert wrong(local) == {LOUD, "velocity"}
    found = [error for key, error in local.errors.items() if key.site == LOUD]
    # Two denoise steps and the cache pass; the candidate against the reference whichever of them is patched.
    assert [error.rel_l2 for error in found] == pytest.approx([LOUDER - 1] * 3, rel=1e-3)
    assert [error.norm_ratio for error in found] == pytest.approx([LOUDER] * 3, rel=1e-3)


def test_what_a_frame_leaves_behind_does_not_reach_the_next_one(
    measure: Measured, tiny: Checkpoint, fp32_on_cpu: Numerics, tiny_scenario: Scenario
) -> None:
    # In frame 1 its local ring has its slots exchanged: frame 2 would attend to the wrong one.
    local = measure(OtherSlot(tiny, fp32_on_cpu), scenario=of_frames(tiny_scenario, [0, 1, 0]))
    found = {(key.unit, key.phase, key.site) for key, error in local.errors.items() if not error.identical}
    assert found == {(1, "cache", "kv_cache.layers.1.kv")}


def test_a_candidate_whose_sites_can_only_be_watched_is_measured_the_other_way_round(
    measure: Measured, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    watched = candidates.Sealed(tiny, fp32_on_cpu)
    assert must_be_reversed(watched.sites())
    local = measure(watched, reverse=True)
    assert wrong(local) == {LOUD}
    assert "velocity" in local.patched
    # Fed nothing, it inherits.
    inherited = measure(watched)
    assert inherited.patched == frozenset()
    assert wrong(inherited) > {LOUD, "transformer.blocks.2.mlp", "velocity"}


def test_a_candidate_is_patched_itself_where_most_of_it_can_be(candidate: Callable[..., CandidateAdapter]) -> None:
    sites = dict(candidate().sites())
    names = sorted(sites)
    assert not must_be_reversed(sites)
    few = {name: candidates.sealed(sites[name]) for name in names[: len(names) // 2 - 3]}
    assert not must_be_reversed(sites | few)
    most = {name: candidates.sealed(sites[name]) for name in names[: len(names) // 2 + 3]}
    assert must_be_reversed(sites | most)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_pass_of_one_side_only_is_told_with_its_side(
    measure: Measured, candidate: Callable[..., CandidateAdapter], one_frame: Scenario, reverse: bool
) -> None:
    local = measure(candidate(three_steps), reverse=reverse)
    assert local.alone == [(At(0, "denoise", 2), "candidate")]
    assert local.lacking == []
    assert {key.step for key in local.errors if key.phase == "denoise"} == {0, 1}

    shorter = candidate()
    start = shorter.start
    shorter.start = lambda prompt, sigmas: start(prompt, sigmas[1:])  # type: ignore[method-assign]
    local = measure(shorter, reverse=reverse)
    assert local.alone == [(At(0, "denoise", 1), "reference")]
    assert local.lacking == []


def test_what_the_candidate_does_not_show_of_a_pass_that_it_ran_is_lacking(
    measure: Measured, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    local = measure(CachePassSkipped(tiny, fp32_on_cpu))
    assert {key.phase for key in local.lacking} == {"cache"}
    assert {"patchify", "transformer.blocks.2"} <= {key.site for key in local.lacking}
    assert local.alone == []


def test_it_is_lacking_too_where_the_reference_is_patched(
    measure: Measured, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    skipped = CachePassSkipped(tiny, fp32_on_cpu)
    assert measure(skipped, reverse=True).lacking == measure(skipped).lacking != []


def test_positions_that_do_not_count_are_not_compared(
    measure: Measured, candidate: Callable[..., CandidateAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = torch.zeros(1, dtype=torch.bool)
    monkeypatch.setattr(type(FAMILY), "counts", lambda self, key, *_: none if key.site == LOUD else None)
    assert wrong(measure(candidate(candidates.louder, candidates.faster))) == {"velocity"}


def test_a_value_that_cannot_be_compared_has_no_distance(
    measure: Measured, candidate: Callable[..., CandidateAdapter]
) -> None:
    def spoil(adapter: Any) -> None:
        adapter.engine.velocity.register_forward_hook(lambda module, inputs, velocity: velocity / 0)

    local = measure(candidate(spoil))
    notes = {key.site: error.note for key, error in local.errors.items() if error.note}
    assert notes.keys() == {"velocity"}
    assert "NaN or infinite on one side only" in str(notes["velocity"])


def test_nothing_stays_attached(
    measure: Measured, candidate: Callable[..., CandidateAdapter], eager: EagerAdapter
) -> None:
    right = candidate()

    def fail(module: object, inputs: object, output: Tensor) -> None:
        raise RuntimeError("out of luck")

    handle = right.engine.velocity.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        measure(right)
    handle.remove()
    assert hooks(right) == hooks(eager) == 0
    assert wrong(measure(right)) == set()
    assert hooks(right) == hooks(eager) == 0
