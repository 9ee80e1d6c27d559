from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.candidates import LOUD, apart, hooks, shown
from tests.harness.implementations import Interrupted, Reusing
from tests.harness.observations import FAMILY
from tests.harness.rollouts import OtherSlot
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.faults.inputs import three_steps
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.exchange import Exchanged
from waypoint_parity.harness.explain.blame.exchanges import Exchange, exchange_called
from waypoint_parity.harness.judge.noise_floor.harmless import Driven
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.worker import exact_arithmetic
from waypoint_parity.reference.eager.adapter import EagerAdapter

# Of two right implementations, up to the picture of the last frame; measured: up to 2e-6.
ROUNDING = 1e-5
Capture = Callable[..., dict[Key, Any]]


class Some(Driven):
    """Another adapter without some of its sites, or with some from which there is no way back."""

    def __init__(self, adapter: Adapter, *, lacks: Sequence[str] = (), fixed: Sequence[str] = ()) -> None:
        super().__init__(adapter)
        self._lacks, self._fixed = lacks, fixed

    def sites(self) -> Mapping[str, Site]:
        shown = {name: site for name, site in super().sites().items() if name not in self._lacks}
        return shown | {name: candidates.sealed(shown[name]) for name in self._fixed}


@pytest.fixture(scope="module")
def spare(tiny: Checkpoint, fp32_on_cpu: Numerics) -> EagerAdapter:
    """The reference, as the one that parts are taken from."""
    return EagerAdapter(tiny, fp32_on_cpu)


@pytest.fixture(scope="module")
def wrong(tiny: Checkpoint, fp32_on_cpu: Numerics) -> CandidateAdapter:
    """The candidate, too fast and in block 1 too loud."""
    adapter = CandidateAdapter(tiny, fp32_on_cpu)
    candidates.faster(adapter)
    candidates.louder(adapter)
    return adapter


@pytest.fixture(scope="module")
def capture(tiny: Checkpoint, one_frame: Scenario) -> Capture:
    """What a session shows: of an adapter, or of one with parts of another by their names."""

    def captured(
        leader: Adapter, shadow: Adapter | None = None, *names: str, scenario: Scenario = one_frame
    ) -> dict[Key, Any]:
        if shadow is None:
            return shown(leader, scenario, tiny)
        with Exchanged(leader, shadow, called(*names), tiny) as mixed:
            session = shown(mixed, scenario, tiny)
        assert mixed.refused == set()
        return session

    return captured


@pytest.fixture(scope="module")
def right(capture: Capture, spare: EagerAdapter) -> dict[Key, Any]:
    """What the reference shows."""
    return capture(spare)


@pytest.fixture(scope="module")
def false(capture: Capture, wrong: CandidateAdapter) -> dict[Key, Any]:
    """What the candidate shows."""
    return capture(wrong)


def called(*names: str) -> list[Exchange]:
    return [exchange_called(name, [name], FAMILY) for name in names]


def relative(actual: Tensor, expected: Tensor) -> float:
    """The relative L2 error."""
    return float((actual - expected).norm() / expected.norm())


def furthest(found: Mapping[Key, float]) -> float:
    """The largest error; but of the frame, which is rounded to levels."""
    return max((error for key, error in found.items() if key.site != "frame"), default=0.0)


def test_with_the_reference_s_parts_in_the_place_of_all_wrong_ones_a_candidate_is_right(
    capture: Capture, wrong: CandidateAdapter, spare: EagerAdapter, right: dict[Key, Any], false: dict[Key, Any]
) -> None:
    assert furthest(apart(false, right)) > 0.05
    assert furthest(apart(capture(wrong, spare, "velocity", "mlp"), right)) < ROUNDING


def test_of_equal_implementations_the_exchange_restores_every_bit(
    capture: Capture, tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter, right: dict[Key, Any]
) -> None:
    faulty = EagerAdapter(tiny, fp32_on_cpu)
    candidates.faster(faulty)
    candidates.louder(faulty)
    assert apart(capture(faulty, spare, "velocity", LOUD), right) == {}
    # One of two is not enough, and leaves the other alone.
    remaining = apart(capture(faulty, spare, "velocity"), right)
    assert next(iter(remaining)).site == LOUD
    assert remaining[Key(0, "denoise", 0, LOUD)] == pytest.approx(candidates.LOUDER - 1, rel=1e-4)


@pytest.mark.parametrize("innocent", ["prompt", "rope", "decoder", "input", "cache"])
def test_the_exchange_of_an_innocent_part_changes_nothing(
    capture: Capture, wrong: CandidateAdapter, spare: EagerAdapter, false: dict[Key, Any], innocent: str
) -> None:
    assert furthest(apart(capture(wrong, spare, innocent), false)) < ROUNDING


def test_the_exchange_is_symmetrical(
    capture: Capture, wrong: CandidateAdapter, spare: EagerAdapter, right: dict[Key, Any], false: dict[Key, Any]
) -> None:
    assert furthest(apart(capture(spare, wrong, "velocity", "mlp"), false)) < ROUNDING
    assert furthest(apart(capture(spare, wrong, "head"), right)) > 0.05


def test_a_part_computes_from_the_values_of_the_one_it_is_put_into(
    capture: Capture, wrong: CandidateAdapter, spare: EagerAdapter, right: dict[Key, Any], false: dict[Key, Any]
) -> None:
    mixed = capture(wrong, spare, "velocity")
    # What comes before it is the candidate's, faults and all; the velocity is what the reference makes of that.
    first = Key(0, "denoise", 0, "velocity")
    assert torch.equal(mixed[first._replace(site=LOUD)], false[first._replace(site=LOUD)])
    assert relative(mixed[first] * candidates.FASTER, false[first]) < ROUNDING
    assert relative(mixed[first], right[first]) > 10 * ROUNDING


def test_what_a_frame_leaves_behind_is_exchanged_with_its_layer(
    capture: Capture, tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter, tiny_scenario: Scenario
) -> None:
    # Its fault is in the second frame.
    other = OtherSlot(tiny, fp32_on_cpu)
    right = capture(spare, scenario=tiny_scenario)
    assert {key.site for key in apart(capture(other, scenario=tiny_scenario), right)} == {"kv_cache.layers.1.kv"}
    assert apart(capture(other, spare, "kv_cache.layers.1.kv", scenario=tiny_scenario), right) == {}


def test_a_schedule_of_more_steps_is_exchanged_either_way(
    capture: Capture, tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter, right: dict[Key, Any]
) -> None:
    longer = CandidateAdapter(tiny, fp32_on_cpu)
    three_steps(longer)
    own = capture(longer)
    mended, spoilt = capture(longer, spare, "input.schedule"), capture(spare, longer, "input.schedule")
    # Each goes through its own number of steps, and hands the other's last latent on.
    beyond = Key(0, "denoise", 2, "velocity")
    assert beyond in mended
    assert beyond not in spoilt
    for handed_on in (Key(0, "cache", 0, "kv_cache.layers.0.kv"), Key(0, "decode", 0, "decoder.conv_out")):
        assert relative(own[handed_on], right[handed_on]) > 0.05
        assert relative(mended[handed_on], right[handed_on]) < ROUNDING
        assert relative(spoilt[handed_on], own[handed_on]) < ROUNDING


@pytest.mark.parametrize(("part", "refused"), [("decoder", "decoder.conv_in"), ("patchify", "patchify")])
def test_a_part_that_takes_the_latent_of_other_steps_is_exchanged_without_it(
    tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter, one_frame: Scenario, part: str, refused: str
) -> None:
    other = CandidateAdapter(tiny, fp32_on_cpu)
    three_steps(other)
    for leader, shadow in ((other, spare), (spare, other)):
        own = shown(leader, one_frame, tiny)
        with Exchanged(leader, shadow, called(part), tiny) as mixed:
            session = shown(mixed, one_frame, tiny)
        # The part is innocent, whatever the steps do.
        assert furthest(apart(session, own)) < ROUNDING
        assert mixed.refused == {refused}


def test_the_leader_may_reuse_what_it_showed(
    capture: Capture, tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter
) -> None:
    # All its MLPs show through one buffer, and the shadow follows when the last of them has.
    reusing = Reusing(tiny, fp32_on_cpu)
    assert apart(capture(reusing, spare, "velocity"), capture(reusing)) == {}


@pytest.mark.parametrize("changed", ["leader", "shadow"])
def test_a_site_that_one_side_cannot_give_or_take_is_refused(
    wrong: CandidateAdapter, spare: EagerAdapter, tiny: Checkpoint, one_frame: Scenario, changed: str
) -> None:
    leader = Some(wrong, fixed=["velocity"] if changed == "leader" else [])
    shadow = Some(spare, lacks=["velocity"] if changed == "shadow" else [])
    with Exchanged(leader, shadow, called("velocity"), tiny) as mixed:
        session = shown(mixed, one_frame, tiny)
    assert mixed.refused == {"velocity"}
    assert furthest(apart(session, shown(wrong, one_frame, tiny))) < ROUNDING


def test_what_a_pass_sees_is_exchanged_only_with_the_attention_that_it_acts_through(
    wrong: CandidateAdapter, spare: EagerAdapter, tiny: Checkpoint, one_frame: Scenario
) -> None:
    for name, refused in (("cache", set()), ("kv_cache.layers.1.visible", {"kv_cache.layers.1.visible"})):
        with Exchanged(wrong, spare, called(name), tiny) as mixed:
            shown(mixed, one_frame, tiny)
        assert mixed.refused == refused


def test_it_is_the_leader_for_those_who_drive_it(
    wrong: CandidateAdapter, spare: EagerAdapter, tiny: Checkpoint
) -> None:
    mixed = Exchanged(wrong, spare, called("velocity", "mlp"), tiny)
    assert mixed.describe() == wrong.describe() | {"exchanged": "velocity; mlp"}
    assert mixed.sites().keys() == wrong.sites().keys()


def test_nothing_stays_attached_once_the_context_is_closed(
    capture: Capture, wrong: CandidateAdapter, spare: EagerAdapter, false: dict[Key, Any], right: dict[Key, Any]
) -> None:
    before = hooks(wrong)
    capture(wrong, spare, "velocity")
    assert (hooks(wrong), hooks(spare)) == (before, 0)
    assert apart(capture(wrong), false) == apart(capture(spare), right) == {}


def test_a_session_left_in_the_middle_does_no_harm_to_the_next_one(
    capture: Capture,
    wrong: CandidateAdapter,
    spare: EagerAdapter,
    right: dict[Key, Any],
    tiny: Checkpoint,
    one_frame: Scenario,
) -> None:
    with exact_arithmetic(), Exchanged(wrong, spare, called("velocity", "mlp"), tiny) as left:
        for _ in islice(passes(left, one_frame, tiny, None), 3):
            pass
        again = shown(left, one_frame, tiny)
    for session in (again, capture(wrong, spare, "velocity", "mlp")):
        assert furthest(apart(session, right)) < ROUNDING


def test_an_error_of_either_side_ends_the_session_and_nothing_stays_attached(
    capture: Capture, tiny: Checkpoint, fp32_on_cpu: Numerics, spare: EagerAdapter
) -> None:
    interrupted = Interrupted(tiny, fp32_on_cpu)
    for sides in ((spare, interrupted), (interrupted, spare)):
        with pytest.raises(RuntimeError, match="out of luck"):
            capture(*sides, "velocity")
        assert hooks(spare) == hooks(interrupted) == 0
