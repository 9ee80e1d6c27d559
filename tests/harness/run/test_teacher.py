from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.harness import rollouts
from tests.harness.observations import JUDGEMENT
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import FREE_RUNNING, TEACHER_FORCED, Comparison, Verdict
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable
from waypoint_parity.harness.run.taps import Observation
from waypoint_parity.harness.run.teacher import Teacher, check_teachable
from waypoint_parity.reference.eager.adapter import EagerAdapter

FRAMES = 4
KV = "kv_cache.layers.0.kv"


class Faster(CandidateAdapter):
    """The native candidate with a velocity that is a thousandth too large; keeps the rings that block 2 was given."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.given: dict[int, Tensor] = {}
        self.engine.velocity.register_forward_hook(lambda module, inputs, velocity: velocity * 1.001)
        self.engine.model.layers[2].register_forward_pre_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """The ring as the first pass of a frame finds it, in the official layout."""
        clock, cache = self.running.clock, self.engine.rings[2]
        if clock not in self.given:
            self.given[clock] = cache.official_kv(inputs[5], clock - 1)


Forcing = Callable[..., Comparison]


@pytest.fixture(scope="module")
def scenario(tiny: Checkpoint) -> Scenario:
    """As many frames as make both kinds of ring replace a slot."""
    return make_scenario(tiny.geometry, name="four", units=FRAMES, seed=3, prompt_tokens=6, prompt_padding=2)


@pytest.fixture(scope="module")
def force(tiny: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics) -> Forcing:
    """The comparison of the reference with an implementation that it teaches, or does not."""
    reference = EagerAdapter(tiny, fp32_on_cpu)

    def compared(candidate: Adapter, *, by: Adapter = reference, teacher_forced: bool = True) -> Comparison:
        sides = Side("eager", by), Side("candidate", candidate)
        return lockstep(*sides, tiny, scenario, JUDGEMENT, teacher_forced=teacher_forced)

    return compared


def errors(comparison: Comparison, site: str) -> list[float]:
    """The errors at a site that fails in every frame, frame by frame."""
    return [failure.distance for failure in comparison.failures if failure.site == site]


def test_a_right_candidate_passes(force: Forcing, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    comparison = force(CandidateAdapter(tiny, fp32_on_cpu))
    assert (comparison.verdict, comparison.rollout) == (Verdict.WITHIN_NOISE, TEACHER_FORCED)
    assert comparison.compared == comparison.expected
    assert comparison.horizon is None
    assert [at.unit for at in comparison.growth] == list(range(FRAMES))


def test_an_error_that_a_rollout_carries_on_grows_unless_the_caches_follow_the_teacher(
    force: Forcing, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    fading = rollouts.Fading(tiny, fp32_on_cpu)
    free, forced = force(fading, teacher_forced=False), force(fading)
    assert free.rollout == FREE_RUNNING
    assert all(after > 1.2 * before for before, after in pairwise(errors(free, KV)))
    latents = [at.rel_l2 or 0.0 for at in free.growth]
    assert (latents[0], free.horizon) == (0.0, 1)
    assert latents[-1] > 1.5 * latents[1]
    # What the candidate itself leaves behind is measured, and is off by as much in every frame; nothing inherits it.
    assert errors(forced, KV) == pytest.approx([1e-3] * FRAMES, rel=0.02)
    assert [at.rel_l2 for at in forced.growth] == [0.0] * FRAMES
    assert forced.horizon is None
    assert {failure.site.rpartition(".")[2] for failure in forced.failures} == {"kv"}


def test_a_fault_of_one_frame_stays_in_that_frame(force: Forcing, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    stale_once, stale = rollouts.StaleOnce(tiny, fp32_on_cpu), rollouts.STALE_FRAME
    free, forced = force(stale_once, teacher_forced=False), force(stale_once)
    assert {failure.unit for failure in free.failures} == {stale, stale + 1}
    assert {failure.unit for failure in forced.failures} == {stale}
    for comparison in (free, forced):
        assert comparison.first is not None
        assert str(comparison.first.key) == f"u{stale}/denoise0/kv_cache.layers.1.visible"
        assert comparison.slots[0].message == f"local layer 1, frame {stale}: slot 0 holds frame 0, expected hidden"


def test_the_next_frames_attention_reads_the_teachers_caches_bit_for_bit(
    force: Forcing, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    right: list[Tensor] = []
    reference, candidate = EagerAdapter(tiny, fp32_on_cpu), Faster(tiny, fp32_on_cpu)
    kv = reference.sites()["kv_cache.layers.2.kv"].module
    kv.register_forward_hook(lambda module, inputs, output: right.append(output))
    forced = force(candidate, by=reference)
    assert len(right) == FRAMES
    for frame in range(FRAMES - 1):
        assert torch.equal(candidate.given[frame + 1], right[frame])
    # The candidate's own latent is what is measured; the cache pass goes on with the teacher's.
    assert {failure.site for failure in forced.failures if failure.phase == "cache"} == {"patchify"}


@pytest.mark.parametrize(
    ("site", "found"), [("patchify", "is not among"), (KV, "is not among"), ("sealed", "cannot be replaced")]
)
def test_an_implementation_whose_state_cannot_be_replaced_is_refused(
    tiny: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics, site: str, found: str
) -> None:
    adapter = (rollouts.Sealed if site == "sealed" else EagerAdapter)(tiny, fp32_on_cpu)
    sites = {name: of for name, of in adapter.sites().items() if name != site}
    with pytest.raises(UserError, match=rf"cannot be taught[\s\S]*{found}[\s\S]*leave --teacher-forced out"):
        check_teachable(sites, tiny.family.table(tiny.geometry, scenario))


TABLE = SiteTable(
    [
        SiteRow(name="patchify", phases=("denoise",), part="patchify"),
        SiteRow(name="patchify", phases=("cache",), part="patchify", taught=True),
        SiteRow(name=KV, phases=("cache",), part="cache", kind=Kind.CACHE, taught=True),
        SiteRow(name=f"{KV}.written", phases=("cache",), part="cache", kind=Kind.MASK, taught=True),
    ]
)


def observation(phase: str, unit: int = 0) -> Observation:
    return Observation(Key(unit, phase, 0, "patchify"), None, torch.tensor([1.0]))


@pytest.fixture
def sites() -> Mapping[str, Site]:
    return {
        "patchify": Site(nn.Identity()),
        KV: Site(nn.Identity(), lambda kv, inputs: kv + 1, lambda right, kv: right - 1),
    }


def test_a_value_is_given_once_in_the_pass_where_it_belongs(sites: Mapping[str, Site]) -> None:
    own, teacher = torch.tensor([5.0]), Teacher(sites, TABLE)
    probe = sites["patchify"].module
    with teacher:
        teacher.observe(observation("denoise"))
        assert probe(own) == 5
        teacher.observe(observation("cache"))
        assert (probe(own), probe(own)) == (1, 5)
        teacher.observe(observation("cache", unit=1))
        teacher.observe(observation("denoise", unit=2))
        assert probe(own) == 5
        teacher.observe(observation("cache", unit=2))
    assert probe(own) == 5


def test_a_value_is_given_in_the_implementations_own_layout(sites: Mapping[str, Site]) -> None:
    teacher = Teacher(sites, TABLE)
    with teacher:
        teacher.observe(Observation(Key(0, "cache", 0, KV), None, torch.tensor([4.0])))
        assert sites[KV].module(torch.tensor([7.0])) == 3


def test_a_mask_is_taught_where_it_can_be_and_is_no_reason_to_refuse(sites: Mapping[str, Site]) -> None:
    """It follows from the clock, so that many implementations only show it."""
    shown = {f"{KV}.written": Site(nn.Identity(), lambda mask, inputs: mask)}
    teacher = Teacher({**sites, **shown}, TABLE)
    with teacher:
        teacher.observe(Observation(Key(0, "cache", 0, f"{KV}.written"), None, torch.tensor([True])))
        assert not shown[f"{KV}.written"].module(torch.tensor([False]))


def test_a_family_that_says_nothing_is_taught_cannot_be_teacher_forced(sites: Mapping[str, Site]) -> None:
    with pytest.raises(UserError, match="no candidate can be taught"):
        check_teachable(sites, SiteTable(TABLE.rows[:1]))
