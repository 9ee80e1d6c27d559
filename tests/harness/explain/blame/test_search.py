from pathlib import Path

import pytest

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.candidates import LOUD, named
from tests.harness.explain.blame.conftest import Cases, Searching
from tests.harness.observations import JUDGEMENT
from tests.parity.faulty import skip_cache_pass
from waypoint_parity.fixtures.faults.cache import no_history
from waypoint_parity.fixtures.faults.seeding import at_start
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.journal import Journal, OutOfBudgetError
from waypoint_parity.harness.explain.blame.result import Blame, Share
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement, Tolerance
from waypoint_parity.harness.run.scenario import Scenario

# Of the frame's error: what rounding leaves of "all of it".
WHOLE = 0.99


class InterruptedError(Exception):
    """Somebody ended the search."""


@pytest.fixture(scope="module")
def of_both(case: Cases, search: Searching) -> Blame:
    """The blame of a candidate with two faults in different parts, one of them in one block."""
    return search(case(candidates.faster, candidates.louder))


def explains(share: Share | None) -> float:
    """How much of the final frame's error, by the least of the three measures."""
    assert share is not None
    return min(value for value in (share.mean_abs, share.ssim, share.sharpness) if value is not None)


def wrong(blame: Blame) -> set[str]:
    """The sites that do something wrong by themselves."""
    return {rung.site for rung in blame.sites if rung.local is None or rung.local > rung.bound}


def parts(blame: Blame) -> list[tuple[str, list[int] | None]]:
    return [(cause.part, cause.blocks) for cause in blame.causes]


def test_a_right_candidate_has_nothing_to_blame(case: Cases, search: Searching) -> None:
    blame = search(case())
    assert blame
    assert blame.comparison.verdict is Verdict.WITHIN_NOISE
    assert blame.causes == []
    assert blame.contradictions == blame.unmeasured == []
    assert (blame.restored, blame.left) == (None, None)
    assert all(rung.local is not None and rung.local <= rung.bound for rung in blame.sites)


def test_what_a_pass_leaves_out_is_wrong_by_itself_and_not_held_against_the_exchange(
    case: Cases, search: Searching
) -> None:
    """A cache pass of which nothing runs: nothing of it can be exchanged, and the history it should leave can."""
    blame = search(case(lambda adapter: at_start(adapter, lambda prompt, sigmas: skip_cache_pass(adapter))))
    assert parts(blame) == [("cache", None)]
    (cause,) = blame.causes
    assert cause.first.note == "the candidate does not show it in this pass"
    assert (cause.first.phase, cause.first.site) == ("cache", "input.sigma")
    assert blame.restored
    assert blame.contradictions == []


def test_a_single_fault_is_the_one_cause_and_explains_everything(of_velocity: Blame) -> None:
    assert not of_velocity
    (cause,) = of_velocity.causes
    assert (cause.part, cause.group, cause.sites) == ("velocity", "head", ["velocity"])
    assert (cause.first.unit, cause.first.phase, cause.first.step) == (0, "denoise", 0)
    assert cause.first.rel_l2 == pytest.approx(candidates.FASTER - 1, rel=1e-3)
    assert (cause.failed, cause.observed, cause.region) == (2, 2, [])
    assert explains(cause.necessity) > WHOLE
    assert explains(cause.sufficiency) > WHOLE
    assert cause.gain is not None
    assert (of_velocity.restored, of_velocity.left) == (True, None)
    assert of_velocity.contradictions == of_velocity.unmeasured == []


def test_the_ladder_has_what_each_site_does_wrong_by_itself_beside_what_it_shows(of_velocity: Blame) -> None:
    rungs = {(rung.phase, rung.step, rung.site): rung for rung in of_velocity.sites}
    own, inherited = rungs["denoise", 1, "velocity"], rungs["denoise", 1, "patchify"]
    assert own.local is not None
    assert own.local > own.bound
    assert inherited.local is not None
    assert inherited.inherited is not None
    assert inherited.local <= inherited.bound < 0.01 < inherited.inherited


def test_the_gain_is_measured_at_the_causes_and_where_it_is_asked_for(of_velocity: Blame) -> None:
    gains = {rung.site: rung.gain for rung in of_velocity.sites if rung.gain is not None}
    assert gains == {"velocity": of_velocity.causes[0].gain, "decoder.conv_out": pytest.approx(1.0, rel=0.02)}


def test_two_faults_at_once_are_both_named_the_weightier_one_first(of_both: Blame) -> None:
    assert sorted(parts(of_both)) == [("mlp", [1]), ("velocity", None)]
    first, second = of_both.causes
    assert explains(first.necessity) > explains(second.necessity)
    # Neither alone restores the picture, both do.
    assert all(explains(cause.necessity) < WHOLE for cause in of_both.causes)
    assert (of_both.restored, of_both.contradictions) == (True, [])


@pytest.mark.slow
def test_a_fault_that_another_one_hides_is_named_too(case: Cases, search: Searching, tiny_scenario: Scenario) -> None:
    # Block 1 is wrong about the past, which a candidate without a history never sees.
    hidden = case(no_history, candidates.loud_history, scenario=tiny_scenario)
    blame = search(hidden)
    found = dict(parts(blame))
    assert set(found) == {"cache", "attention"}
    assert found["attention"] == [1]
    assert (blame.restored, blame.contradictions) == (True, [])
    assert blame.causes[0].part == "cache"
    # Wrong in the second frame alone, which is the one that the ladder is to show.
    assert {"transformer.blocks.1.attn", "kv_cache.layers.1.visible"} <= wrong(blame)


@pytest.mark.slow
def test_a_subset_of_sites_names_the_block_and_where_in_it_the_fault_may_lie(case: Cases, search: Searching) -> None:
    lenient = Judgement(JUDGEMENT.bounds, allowed_missing=("*",))
    blame = search(case(candidate=named(candidates.Sparse), judgement=lenient))
    (cause,) = blame.causes
    assert (cause.sites, cause.blocks) == (["transformer.blocks.1"], [1])
    assert {LOUD, "transformer.blocks.1.attn.q_proj", "kv_cache.layers.1.kv"} <= set(cause.region)
    assert not any(site.startswith(("transformer.blocks.0", "transformer.blocks.2")) for site in cause.region)
    assert explains(cause.necessity) > WHOLE
    assert (blame.restored, blame.contradictions) == (True, [])


def test_a_candidate_that_can_only_be_watched_is_put_into_the_reference_part_by_part(
    case: Cases, search: Searching
) -> None:
    blame = search(case(candidate=named(candidates.Sealed)))
    (cause,) = blame.causes
    assert (cause.part, cause.blocks, cause.sites) == ("mlp", [1], [LOUD])
    # Nothing can be put into it: only what its part does to the reference is known.
    assert cause.necessity is None
    assert explains(cause.sufficiency) > WHOLE
    assert (blame.restored, blame.contradictions) == (True, [])


def test_a_divergence_without_a_local_error_is_a_contradiction(case: Cases, search: Searching) -> None:
    blame = search(case(candidate=named(candidates.FastOnce)))
    assert not blame
    assert blame.causes == []
    assert blame.contradictions == ["parity fails, and no site does anything wrong by itself"]


def test_what_diverges_though_all_causes_are_exchanged_is_a_contradiction(case: Cases, search: Searching) -> None:
    blame = search(case(candidate=named(candidates.LoudLater)))
    assert parts(blame) == [("velocity", None)]
    assert blame.restored is False
    assert str(blame.left).startswith(LOUD)
    # The ladder is of the candidate as it is, not as it is mended.
    assert wrong(blame) == {"velocity"}
    (contradiction,) = blame.contradictions
    assert contradiction.startswith(f"with the parts of all causes exchanged there is still {LOUD}")


def test_without_any_budget_nothing_is_begun(case: Cases, search: Searching, tmp_path: Path) -> None:
    begun: list[str] = []
    with pytest.raises(OutOfBudgetError, match=r"the run: free"):
        search(case(candidates.faster), tmp_path, budget=0.0, announce=begun.append)
    assert begun == []


def test_an_interrupted_search_goes_on_where_it_was_and_ends_with_the_same_causes(
    case: Cases, search: Searching, tmp_path: Path, of_both: Blame
) -> None:
    faulty = case(candidates.faster, candidates.louder)

    def interrupt(name: str) -> None:
        if name == "mended 0":
            raise InterruptedError(name)

    with pytest.raises(InterruptedError):
        search(faulty, tmp_path, announce=interrupt)

    # With no time left it tells what it knows, and what it does not.
    poor = search(faulty, tmp_path, resume=True, budget=0.0)
    assert {(cause.part, cause.necessity) for cause in poor.causes} == {("mlp", None), ("velocity", None)}
    assert poor.restored is None
    assert poor.unmeasured[0] == "mended 0"
    assert {"necessity of velocity", "sufficiency of mlp of block 1"} <= set(poor.unmeasured)

    begun: list[str] = []
    whole = search(faulty, tmp_path, resume=True, announce=begun.append)
    assert begun[0] == "mended 0"
    assert not {"free", "local 0"} & set(begun)
    assert (whole.causes, whole.sites, whole.restored) == (of_both.causes, of_both.sites, of_both.restored)
    assert whole.unmeasured == []

    begun.clear()
    assert search(faulty, tmp_path, resume=True, announce=begun.append).causes == of_both.causes
    assert begun == []


def test_the_search_of_another_case_is_not_resumed(case: Cases, search: Searching, tmp_path: Path) -> None:
    stricter = case(judgement=Judgement(Tolerance(1e-6, 1e-4)))
    Journal(tmp_path, case().identity)
    with pytest.raises(UserError, match=r"holds another search[\s\S]*bounds"):
        search(stricter, tmp_path, resume=True)


def test_what_may_lack_is_part_of_what_a_search_is_of(case: Cases) -> None:
    lenient = case(judgement=Judgement(JUDGEMENT.bounds, allowed_missing=("*",)))
    assert lenient.identity != case().identity


def test_what_the_user_asks_for_is_exchanged_besides(of_velocity: Blame) -> None:
    head, decoder = of_velocity.exchanges
    assert (head.name, decoder.name) == ("head", "decoder")
    assert explains(head.necessity) > WHOLE
    assert explains(head.sufficiency) > WHOLE
    assert decoder.necessity is not None
    assert decoder.sufficiency is not None
    assert decoder.necessity.mean_abs == pytest.approx(0.0, abs=0.01)
    assert decoder.sufficiency.mean_abs == pytest.approx(0.0, abs=0.01)
