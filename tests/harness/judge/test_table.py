import math
from dataclasses import replace
from itertools import count

import msgspec
import pytest
import torch

from tests.harness.observations import FAMILY, JUDGEMENT, SAME, key, off_by
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.join import CANDIDATE, REFERENCE
from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.judgement import Judgement, Limits, Tolerance
from waypoint_parity.harness.judge.table import ACCEPTED_INPUT, ALLOWED_MISSING, MOST_FAILURES, Expected, VerdictTable
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.keys import Key, Rung
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable

NO_DISTANCE = Error(identical=False, rel_l2=math.inf, note="shape [2], not [3]")


def close(table: VerdictTable, expected: int = 1) -> Comparison:
    return table.close("eager", "candidate", evidence="tensors", expected=expected, pictures=[])


def judged(*errors: Error, judgement: Judgement = JUDGEMENT) -> Comparison:
    table = VerdictTable(judgement, FAMILY)
    for order, error in enumerate(errors):
        table.pair(order, key("latent", unit=order), error)
    return close(table)


def test_every_picture_is_given_the_bound_of_its_unit() -> None:
    black = PictureMetrics(at=PictureAt(2, 0, 1), ssim=1.0, mean_abs=0.0, max_abs=0, psnr=None)
    table = VerdictTable(JUDGEMENT, FAMILY)
    (picture,) = table.close("eager", "candidate", evidence="tensors", expected=0, pictures=[black]).pictures
    assert picture == msgspec.structs.replace(black, bound=JUDGEMENT.bounds.of(Key(2, "decode", 0, "frame")).rel_l2)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (SAME, Verdict.IDENTICAL),
        (off_by(0.0), Verdict.WITHIN_NOISE),
        (off_by(1e-5), Verdict.WITHIN_NOISE),
        (off_by(1.1e-5), Verdict.DIVERGED),
        (NO_DISTANCE, Verdict.DIVERGED),
        (off_by(math.nan), Verdict.DIVERGED),
    ],
    ids=str,
)
def test_a_site_is_judged_by_the_tolerance(error: Error, verdict: Verdict) -> None:
    comparison = judged(error)
    assert comparison.verdict is verdict
    assert bool(comparison) is verdict.passes
    assert comparison.counts == {verdict: 1}


def test_a_run_is_as_good_as_its_worst_observation() -> None:
    assert judged(SAME, SAME).verdict is Verdict.IDENTICAL
    assert judged(SAME, off_by(1e-7), SAME).verdict is Verdict.WITHIN_NOISE
    assert judged(SAME, off_by(1.0), off_by(1e-7)).verdict is Verdict.DIVERGED


def test_no_observation_at_all_is_no_pass() -> None:
    assert not judged()


def test_nothing_but_inputs_is_no_pass() -> None:
    """Two implementations that show no site of their own were given the same, and did nothing to compare."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("input.noise"), SAME)
    assert not close(table)


def test_nothing_but_empty_tensors_is_no_pass_and_another_dtype_is_told() -> None:
    empty = tensor_error(torch.zeros(0, 4), torch.zeros(0, 4))
    retyped = tensor_error(torch.ones(4, dtype=torch.bool), torch.ones(4))
    assert judged(empty).verdict is Verdict.MISSING
    comparison = judged(empty, retyped)
    assert comparison.verdict is Verdict.IDENTICAL
    assert [("bool" in note, "float32" in note) for note in comparison.notes] == [(True, True), (False, False)]


@pytest.mark.parametrize(("call", "often"), [(1, "twice"), (2, "3 times")])
def test_a_site_that_one_side_shows_more_often_is_not_called_absent(call: int, often: str) -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("latent"), SAME)
    table.missing(1, key("latent", call=call), lacking=REFERENCE, seen_elsewhere=True)
    comparison = close(table)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert f"candidate shows it {often}" in str(comparison.first)


def test_what_was_compared_without_exact_values_is_counted() -> None:
    """Whole numbers and inputs need none."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    errors = [("latent", replace(SAME, exact=1e-15)), ("out_norm", SAME), ("patchify", replace(SAME, whole=True))]
    for order, (site, error) in enumerate([*errors, ("out_norm", SAME), ("input.noise", SAME)]):
        table.pair(order, key(site, unit=order), error)
    close(table, 5)
    found = table.mathematics({})
    assert found is not None
    assert found.same
    assert (found.observations, found.lost, found.lost_sites) == (1, 2, 1)


def test_a_picture_has_a_tolerance_of_its_own() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, Key(0, "decode", 0, "frame"), off_by(5e-4))
    comparison = close(table)
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.sites[0].rel_l2 == 5e-4


def test_the_first_failure_is_the_first_in_execution_order_however_the_pairs_arrive() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    for order in (5, 2, 9, 3):
        table.pair(order, key(f"transformer.blocks.{order}"), off_by(float(order)))
    comparison = close(table)
    assert comparison.first is not None
    assert (comparison.first.order, comparison.first.block) == (2, 2)
    assert [failure.order for failure in comparison.failures] == [2, 3, 5, 9]


def test_the_worst_is_the_largest_error_of_an_activation() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("patchify"), off_by(1e-7))
    table.pair(1, key("out_norm"), off_by(3e-6))
    table.pair(2, key("velocity"), off_by(2e-6))
    table.pair(3, Key(0, "decode", 0, "frame"), off_by(9e-4))
    for order, mask in enumerate(("written", "visible"), start=4):
        table.pair(order, Key(0, "cache", 0, f"kv_cache.layers.0.{mask}"), off_by(0.5))
    comparison = close(table, expected=6)
    assert comparison.worst is not None
    assert comparison.worst.site == "out_norm"


def test_a_failure_without_a_distance_is_worse_than_any_distance_and_says_why() -> None:
    worst = judged(off_by(1e9), NO_DISTANCE, off_by(1e9)).worst
    assert worst is not None
    assert (worst.rel_l2, worst.distance, worst.note) == (None, math.inf, "shape [2], not [3]")
    assert "shape [2], not [3]" in str(worst)


def test_a_failure_says_where_how_far_and_what_would_have_passed() -> None:
    first = str(judged(off_by(2e-4)).first)
    assert first.startswith("latent at unit 0, denoise step 0: ")
    assert "relative L2 2.00e-04, tolerance 1.0e-05" in first
    assert first.endswith("would have passed at 2.00e-04")
    assert "would have passed" not in str(judged(off_by(2e-6)).worst)


def test_failures_are_kept_up_to_a_limit_and_counted_beyond_it() -> None:
    comparison = judged(*[off_by(1.0)] * (MOST_FAILURES + 50))
    assert [failure.order for failure in comparison.failures] == list(range(MOST_FAILURES))
    assert comparison.counts[Verdict.DIVERGED] == MOST_FAILURES + 50


def test_the_ladder_has_one_rung_per_site_and_step_with_its_worst_unit() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    for unit, size in enumerate((1e-7, 3e-2, 2e-2)):
        for step in range(2):
            table.pair(2 * unit + step, key("latent", unit, step), off_by(size))
    rungs = close(table).sites
    assert [(rung.site, rung.step) for rung in rungs] == [("latent", 0), ("latent", 1)]
    assert [(rung.rel_l2, rung.unit, rung.failed, rung.observations) for rung in rungs] == [(3e-2, 1, 2, 3)] * 2


def missing(site: str, *, allowed: tuple[str, ...] = (), seen_elsewhere: bool = False) -> Comparison:
    table = VerdictTable(Judgement(JUDGEMENT.bounds, allowed_missing=allowed), FAMILY)
    table.pair(0, key("patchify"), SAME)
    table.missing(1, key(site), lacking="candidate", seen_elsewhere=seen_elsewhere)
    return close(table, expected=2)


def test_a_missing_site_is_never_a_pass() -> None:
    comparison = missing("velocity")
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.note == "the candidate has no record of it"
    assert (comparison.compared, comparison.expected) == (1, 2)


def test_a_missing_input_is_never_a_pass() -> None:
    assert not missing("input.noise")


def test_a_site_may_be_missing_by_name() -> None:
    comparison = missing("decoder.conv_in", allowed=("encoder.*", "decoder.*"))
    assert comparison.verdict is Verdict.IDENTICAL
    assert comparison.counts[ALLOWED_MISSING] == 1
    assert comparison.compared == 1


def test_a_site_that_was_seen_in_other_passes_may_not_be_missing_in_one() -> None:
    assert not missing("decoder.conv_in", allowed=("decoder.*",), seen_elsewhere=True)


def test_a_run_of_nothing_but_allowed_missing_sites_is_no_pass() -> None:
    table = VerdictTable(Judgement(JUDGEMENT.bounds, allowed_missing=("*",)), FAMILY)
    table.missing(0, key("latent"), lacking="candidate", seen_elsewhere=False)
    assert not close(table)


@pytest.mark.parametrize("error", [off_by(1e-9), NO_DISTANCE])
def test_an_input_that_differs_at_all_makes_the_runs_incomparable(error: Error) -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(3, key("input.sigma", unit=1), error)
    table.pair(1, key("input.noise"), error)
    table.pair(4, key("latent"), SAME)
    comparison = close(table)
    assert comparison.verdict is Verdict.INCOMPARABLE
    noise, sigma = "input.noise differs at unit 0, denoise step 0", "input.sigma differs at unit 1, denoise step 0"
    assert comparison.reason == f"{noise}; {sigma}"
    assert (comparison.counts, comparison.failures, comparison.worst, comparison.sites) == ({}, [], None, [])
    assert not comparison


def test_an_input_may_differ_by_name() -> None:
    table = VerdictTable(Judgement(JUDGEMENT.bounds, accepted_inputs=("noise",)), FAMILY)
    table.pair(0, key("input.noise"), off_by(1.0))
    table.pair(1, key("latent"), off_by(1e-6))
    comparison = close(table)
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.counts == {ACCEPTED_INPUT: 1, Verdict.WITHIN_NOISE: 1}


def test_a_wider_tolerance_judges_the_same_error_otherwise() -> None:
    wide = Judgement(Tolerance(activations=1e-2, pictures=1e-2))
    assert judged(off_by(1e-3), judgement=wide)
    assert not judged(off_by(1e-3))


EXPECTED = {Rung("denoise", 0, "patchify"): 3, Rung("denoise", 0, "latent"): 3}


def covered(*keys: Key, expected: Expected, allowed: tuple[str, ...] = ()) -> Comparison:
    """The comparison of two sides that both showed the same at `keys`, and nothing else."""
    table = VerdictTable(Judgement(JUDGEMENT.bounds, allowed_missing=allowed), FAMILY)
    for order, at in enumerate(keys):
        table.pair(order, at, SAME)
    return table.close("eager", "candidate", evidence="tensors", expected=expected, pictures=[])


def all_units(*sites: str) -> list[Key]:
    return [key(site, unit) for unit in range(3) for site in sites]


def test_full_coverage_passes() -> None:
    comparison = covered(*all_units("patchify", "latent"), expected=EXPECTED)
    assert comparison.verdict is Verdict.IDENTICAL
    assert (comparison.compared, comparison.expected) == (6, 6)


def test_a_site_that_both_sides_lack_is_missing_and_one_failure() -> None:
    comparison = covered(*all_units("patchify"), expected=EXPECTED)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.counts == {Verdict.IDENTICAL: 3, Verdict.MISSING: 3}
    assert (comparison.compared, comparison.expected) == (3, 6)
    assert [(at.key, at.note) for at in comparison.failures] == [(key("latent"), "neither side has a record of it")]
    assert [(rung.site, rung.failed, rung.rel_l2) for rung in comparison.sites] == [
        ("patchify", 0, 0),
        ("latent", 3, None),
    ]


def test_a_site_that_both_sides_lack_in_one_unit_is_missing_there() -> None:
    keys = [at for at in all_units("patchify", "latent") if at != key("latent", 1)]
    comparison = covered(*keys, expected=EXPECTED, allowed=("latent",))
    assert comparison.first is not None
    assert comparison.first.key == key("latent", 1)


def test_a_site_that_both_sides_lack_may_be_missing_by_name() -> None:
    comparison = covered(*all_units("patchify"), expected=EXPECTED, allowed=("lat*",))
    assert comparison.verdict is Verdict.IDENTICAL
    assert comparison.counts[ALLOWED_MISSING] == 3


def test_a_repeated_call_makes_up_for_no_unit_that_lacks_it() -> None:
    calls = [key("latent", 0, call=call) for call in range(3)]
    comparison = covered(*all_units("patchify"), *calls, expected=EXPECTED)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.key == key("latent", 1)
    assert [rung.site for rung in comparison.sites] == ["patchify", "latent"]


def test_what_was_not_expected_is_compared_and_covers_nothing() -> None:
    comparison = covered(*all_units("patchify", "out_norm"), expected=EXPECTED)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.compared == 3


def test_where_only_their_number_is_known_too_few_observations_are_no_pass() -> None:
    comparison = covered(*all_units("patchify"), expected=5)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.note == "neither side has a record of 2 of 5 observations"
    assert covered(*all_units("patchify"), expected=5, allowed=("latent",))


def test_an_input_of_one_element_is_told_by_its_values() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("input.timestamp", 2), Error(identical=False, rel_l2=0.5, values=(3.0, 2.0)))
    assert close(table).reason == "input.timestamp is 3, expected 2, at unit 2, denoise step 0"


def test_controls_are_accepted_by_one_name_and_an_unknown_name_is_refused() -> None:
    table = VerdictTable(Judgement(JUDGEMENT.bounds, accepted_inputs=("controls",)), FAMILY)
    for order, site in enumerate(("input.button", "input.mouse", "input.scroll", "latent")):
        table.pair(order, key(site), off_by(1e-6))
    assert close(table).counts == {ACCEPTED_INPUT: 3, Verdict.WITHIN_NOISE: 1}
    with pytest.raises(UserError, match="nothing that could differ has this name"):
        VerdictTable(Judgement(JUDGEMENT.bounds, accepted_inputs=("buttons",)), FAMILY)


def test_norms_are_judged_where_they_have_a_bound() -> None:
    class Strict(Tolerance):
        def of(self, at: Key) -> Limits:
            return Limits(1e-2, 1e-4 if at.unit < 1 else 1e-2)

        units = 1

    judgement = Judgement(Strict(activations=1.0, pictures=1.0))
    error = Error(identical=False, rel_l2=1e-3, norm_ratio=1.001)
    assert judged(error, error, judgement=judgement).counts == {Verdict.DIVERGED: 1, Verdict.WITHIN_NOISE: 1}


def test_many_pairs_are_judged_as_one() -> None:
    comparison = judged(*[off_by(1e-6)] * 1300, off_by(1.0))
    assert comparison.counts == {Verdict.WITHIN_NOISE: 1300, Verdict.DIVERGED: 1}
    assert comparison.first is not None
    assert comparison.first.unit == 1300


def test_the_growth_is_that_of_the_latents_that_units_end_with() -> None:
    """Neither that of a velocity, nor that of what a seed image is encoded to."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, Key(2, "image", 0, "latent"), SAME)
    for order, (site, unit, error) in enumerate([("latent", 0, 1e-7), ("velocity", 0, 1.0), ("latent", 1, 3e-7)]):
        table.pair(order + 1, key(site, unit), off_by(error))
    assert [(at.unit, at.rel_l2) for at in close(table).growth] == [(0, 1e-7), (1, 3e-7)]


def test_branches_are_rungs_and_failures_of_their_own() -> None:
    table = VerdictTable(JUDGEMENT, FAMILY)
    for order, branch in enumerate(("cond", "uncond")):
        table.pair(order, key("velocity")._replace(branch=branch), off_by(float(order)))
    expected = {Rung("denoise", 0, "velocity", branch): 1 for branch in ("cond", "uncond", "perturbed")}
    comparison = table.close("eager", "candidate", evidence="tensors", expected=expected, pictures=[])
    assert [(rung.branch, rung.failed) for rung in comparison.sites] == [("cond", 0), ("uncond", 1), ("perturbed", 1)]
    assert str(comparison.first).startswith("velocity at unit 0, denoise step 0, uncond: ")
    assert [failure.key.branch for failure in comparison.failures] == ["uncond", "perturbed"]
    assert (comparison.compared, comparison.expected) == (2, 3)


def test_a_family_of_other_sites_is_judged_by_its_own_table() -> None:
    class Clips:
        name = "clips"
        sites = SiteTable(
            [
                SiteRow(name="input.text", phases=("prepare",), part="text", kind=Kind.INPUT, accepted_as=("text",)),
                SiteRow(name="score", phases=("judge",), part="judge", optional=True),
                SiteRow(name="attends", phases=("denoise",), part="mask", kind=Kind.MASK),
                SiteRow(name="film", phases=("decode",), part="decoder", kind=Kind.PICTURE),
            ]
        )

    table = VerdictTable(Judgement(JUDGEMENT.bounds, accepted_inputs=("text",)), Clips())  # type: ignore[arg-type]
    table.pair(0, Key(0, "prepare", 0, "input.text"), off_by(1.0))
    table.pair(1, Key(0, "denoise", 0, "attends"), off_by(9e-6))
    table.pair(2, Key(0, "denoise", 0, "latent"), off_by(1e-7))
    table.missing(3, Key(0, "judge", 0, "score"), lacking="candidate", seen_elsewhere=False)
    comparison = close(table)
    assert comparison.counts == {ACCEPTED_INPUT: 1, Verdict.WITHIN_NOISE: 1, Verdict.DIVERGED: 1}
    assert comparison.first is not None
    assert (comparison.first.site, comparison.first.tolerance) == ("attends", 0.0)
    # A mask is right or wrong, which no distance tells; and the table has no latent whose growth could be followed.
    assert comparison.worst is not None
    assert comparison.worst.site == "latent"
    assert comparison.growth == []
    assert comparison.family == "clips"


def test_every_unit_has_the_error_of_its_last_latent_and_what_noise_may_grow_to() -> None:
    table, order = VerdictTable(JUDGEMENT, FAMILY), count()
    for unit, errors in enumerate([(1e-7, 2e-7), (3e-7, 4e-7)]):
        for step, error in enumerate(errors):
            table.pair(next(order), key("latent", unit, step), off_by(error))
    assert [(at.unit, at.rel_l2, at.tolerance) for at in close(table).growth] == [(0, 2e-7, 1e-5), (1, 4e-7, 1e-5)]


def test_the_last_latent_is_the_last_in_the_execution_whatever_its_phase_is_called() -> None:
    class Cascade:
        name = "cascade"
        sites = SiteTable(
            [SiteRow(name="latent", phases=("denoise", "base"), part="sampler", kind=Kind.LATENT)],
        )

    table = VerdictTable(JUDGEMENT, Cascade())  # type: ignore[arg-type]
    table.pair(7, Key(0, "base", 0, "latent"), off_by(2e-7))
    table.pair(3, Key(0, "denoise", 5, "latent"), off_by(1e-7))
    assert [at.rel_l2 for at in close(table).growth] == [2e-7]


def test_a_latent_without_a_distance_has_none() -> None:
    assert judged(NO_DISTANCE).growth[0].rel_l2 is None


def test_growth_is_told_alike_in_whatever_parts_and_order_the_errors_come() -> None:
    """Each part counts from its own beginning."""

    def part(*latents: tuple[int, Key, float]) -> VerdictTable:
        table = VerdictTable(JUDGEMENT, FAMILY)
        for order, at, error in latents:
            table.pair(order, at, off_by(error))
        return table

    parts = [
        (0, part((1, key("latent", 0, 1), 2e-7), (0, key("latent", 0, 0), 5e-7), (2, key("latent", 1, 0), 3e-7))),
        (3, part((0, key("latent", 1, 1), 4e-7))),
    ]
    for those in (parts, parts[::-1]):
        whole = VerdictTable(JUDGEMENT, FAMILY)
        for before, table in those:
            whole.merge(table, {REFERENCE: before, CANDIDATE: before})
        assert [(at.unit, at.rel_l2) for at in close(whole).growth] == [(0, 2e-7), (1, 4e-7)]
