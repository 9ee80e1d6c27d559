from collections.abc import Callable
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.observations import FAMILY
from waypoint_parity.harness.judge.comparison import COMPARISON_SCHEMA, INFINITE, Comparison, Verdict, WorstAtSite
from waypoint_parity.harness.sweep.effects import effects, largest_excess
from waypoint_parity.harness.sweep.summary import CellRun, Effects

SCHEDULES, SEEDS, MASKS = ("checkpoint", "three-step"), ("11", "12"), ("none", "zeroed", "unzeroed")
FIXED = {"implementation": "candidate", "dtype": "fp32", "attention": "own", "scenario": "walk", "policy": "per-frame"}
Fails = Callable[[str, str, str], bool]


def cells() -> dict[str, CellRun]:
    return {
        f"{schedule}_{seed}_{mask}": CellRun(
            folder="", digest="", seconds=1.0, factors={**FIXED, "schedule": schedule, "seed": seed, "mask": mask}
        )
        for schedule, seed, mask in product(SCHEDULES, SEEDS, MASKS)
    }


def comparison(error: float, tolerance: float) -> Comparison:
    rung = WorstAtSite(
        phase="denoise", step=0, site="velocity", rel_l2=error, tolerance=tolerance, unit=0, failed=0, observations=1
    )
    return Comparison(
        schema=COMPARISON_SCHEMA,
        verdict=Verdict.WITHIN_NOISE,
        reference="eager",
        candidate="candidate",
        evidence="tensors",
        bounds={},
        reason=None,
        first=None,
        worst=None,
        counts={},
        expected=1,
        compared=1,
        failures=[],
        sites=[rung, msgspec.structs.replace(rung, site="input.sigma", rel_l2=0.0, tolerance=0.0)],
        pictures=[],
    )


def of(fails: Fails) -> Effects:
    runs = cells()
    failing = {name for name in runs if fails(*name.split("_"))}
    errors = {name: comparison(3e-3 if name in failing else 1e-6, 1e-5) for name in runs}
    return effects(runs, errors, failing, FAMILY)


@pytest.mark.parametrize(
    ("fails", "combinations", "sentence"),
    [
        (lambda schedule, seed, mask: False, [], "no cell of 12 fails"),
        (lambda schedule, seed, mask: True, [{}], "12 of 12 cells fail: at every schedule, seed and mask"),
        (
            lambda schedule, seed, mask: mask != "none",
            [{"mask": ["zeroed", "unzeroed"]}],
            "8 of 12 cells fail: only with padding, at every schedule and seed",
        ),
        (
            lambda schedule, seed, mask: mask == "none",
            [{"mask": ["none"]}],
            "4 of 12 cells fail: only without padding, at every schedule and seed",
        ),
        (
            lambda schedule, seed, mask: mask == "zeroed",
            [{"mask": ["zeroed"]}],
            "4 of 12 cells fail: only with mask zeroed, at every schedule and seed",
        ),
        (
            lambda schedule, seed, mask: (schedule, mask) == ("three-step", "none"),
            [{"schedule": ["three-step"], "mask": ["none"]}],
            "2 of 12 cells fail: only with schedule three-step, without padding, at every seed",
        ),
        (
            lambda schedule, seed, mask: (schedule, seed, mask) == ("three-step", "12", "none"),
            [{"schedule": ["three-step"], "seed": ["12"], "mask": ["none"]}],
            "1 of 12 cells fail: only with schedule three-step, with seed 12, without padding, "
            "at the one setting of everything else",
        ),
        (
            lambda schedule, seed, mask: schedule == "three-step" or mask == "none",
            [{"schedule": ["three-step"]}, {"mask": ["none"]}],
            "8 of 12 cells fail: with schedule three-step; or without padding",
        ),
    ],
)
def test_the_smallest_combination_that_accounts_for_every_failure(
    fails: Fails, combinations: list[dict[str, list[str]]], sentence: str
) -> None:
    found = of(fails)
    assert [combination.levels for combination in found.combinations] == combinations
    assert found.sentences == [sentence]


@given(st.sets(st.sampled_from(sorted(cells()))))
@settings(deadline=None)
def test_combinations_hold_every_failure_and_nothing_else(failing: set[str]) -> None:
    runs = cells()
    found = effects(runs, {name: comparison(0.0, 1.0) for name in runs}, failing, FAMILY)
    assert {name for combination in found.combinations for name in combination.cells} == failing
    for combination in found.combinations:
        inside = {
            name
            for name, run in runs.items()
            if all(run.factors[factor] in levels for factor, levels in combination.levels.items())
        }
        assert inside == set(combination.cells)


def test_the_effect_of_a_level_is_its_failures_and_its_median_excess() -> None:
    found = of(lambda schedule, seed, mask: mask != "none")
    by_level = {(effect.factor, effect.level): effect for effect in found.levels}
    assert set(by_level) == {*product(["schedule"], SCHEDULES), *product(["seed"], SEEDS), *product(["mask"], MASKS)}
    none, zeroed = by_level["mask", "none"], by_level["mask", "zeroed"]
    assert (none.cells, none.failing, none.excess) == (4, 0, pytest.approx(0.1))
    assert (zeroed.cells, zeroed.failing, zeroed.excess) == (4, 4, pytest.approx(300))
    assert by_level["seed", "11"].failing == 4


@pytest.mark.parametrize(
    ("exact", "local", "excess"),
    [(None, None, 300.0), (2e-11, None, 0.2), (None, 0.5, 0.5), (2e-11, 0.5, 0.5), (2e-9, 0.5, 20.0)],
)
def test_the_excess_is_that_of_exact_values_and_of_sites_by_themselves_where_they_are_known(
    exact: float | None, local: float | None, excess: float
) -> None:
    of_values = comparison(3e-3, 1e-5)
    rung = msgspec.structs.replace(of_values.sites[0], exact=exact, local=local)
    assert largest_excess(msgspec.structs.replace(of_values, sites=[rung])) == pytest.approx(excess)


def test_an_infinite_excess_is_no_number_for_a_median() -> None:
    of_values = comparison(3e-3, 1e-5)
    wrong = [msgspec.structs.replace(of_values.sites[0], **{name: INFINITE}) for name in ("exact", "local")]
    assert largest_excess(msgspec.structs.replace(of_values, sites=wrong)) is None
    assert largest_excess(msgspec.structs.replace(of_values, sites=[*wrong, *of_values.sites])) == pytest.approx(300)


def test_factors_with_several_levels_come_first() -> None:
    factors = of(lambda schedule, seed, mask: False).factors
    assert list(factors)[:3] == ["schedule", "seed", "mask"]
    assert factors["dtype"] == ["fp32"]


def test_a_grid_with_holes_is_judged_by_the_cells_that_were_run() -> None:
    runs = {name: run for name, run in cells().items() if name != "three-step_12_zeroed"}
    failing = {name for name, run in runs.items() if run.factors["mask"] == "zeroed"}
    found = effects(runs, {name: comparison(0.0, 1.0) for name in runs}, failing, FAMILY)
    assert [combination.levels for combination in found.combinations] == [{"mask": ["zeroed"]}]
