"""Variants of a scenario by the factors of its family: Waypoint's, and those of a family made for the purpose."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness.observations import FAMILY
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run import variant
from waypoint_parity.harness.run.family import Factor
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.variant import AS_RECORDED, Variant


def labelled(name: str) -> Factor:
    """A factor that leaves its level in the scenario's labels."""

    def change(scenario: Scenario, geometry: Any, level: str) -> Scenario:
        order = scenario.labels.get("order", "") + name
        return dataclasses.replace(scenario, labels={**scenario.labels, name: f"{level} of {geometry}", "order": order})

    return Factor(change=change, kept="own" if name == "guidance" else None, name_of=f"{name}={{}}".format)


CLIPS: Any = SimpleNamespace(name="clips", factors={name: labelled(name) for name in ("guidance", "solver")})
CLIP = Scenario("clips", "walk", 3, 2, {})


@pytest.fixture(autouse=True)
def _clips(monkeypatch: pytest.MonkeyPatch) -> None:
    known = variant.family_named
    monkeypatch.setattr(variant, "family_named", lambda name: CLIPS if name == "clips" else known(name))


def test_a_factor_without_a_level_is_left_out() -> None:
    assert Variant.of({"schedule": "three-step", "seed": None}) == Variant((("schedule", "three-step"),))
    assert Variant.of({"schedule": None}) == Variant()


def test_a_name_says_what_differs_in_the_order_of_the_factors() -> None:
    levels = {"mask": "zeroed", "seed": "12", "schedule": "single-step"}
    assert Variant.of(levels).name(FAMILY) == "single-step_seed12_zeroed-padding"
    assert Variant().name(FAMILY) == "checkpoint"
    assert Variant.of({"solver": "euler"}).name(CLIPS) == "guidance=own_solver=euler"


def test_a_sweep_is_told_the_level_of_every_factor() -> None:
    assert Variant.of({"solver": "euler"}).told(CLIPS) == {"guidance": "own", "solver": "euler"}
    assert Variant().told(CLIPS) == {"guidance": "own", "solver": AS_RECORDED}


def test_levels_are_applied_in_the_order_of_the_factors_on_top_of_each_other() -> None:
    applied = Variant.of({"solver": "euler", "guidance": "7"}).apply(CLIP, "a model")
    assert applied.labels == {"guidance": "7 of a model", "solver": "euler of a model", "order": "guidancesolver"}
    assert applied.name == "walk/guidance=7_solver=euler"
    assert (applied.seed, applied.units, applied.family) == (CLIP.seed, CLIP.units, CLIP.family)


def test_the_plain_variant_changes_nothing_but_the_name(tiny_scenario: Scenario) -> None:
    applied = Variant().apply(tiny_scenario, None)
    assert applied.digest == tiny_scenario.digest
    assert applied == dataclasses.replace(tiny_scenario, name="short/checkpoint")


def test_a_factor_that_the_family_does_not_have_is_refused_with_those_that_it_has(tiny_scenario: Scenario) -> None:
    with pytest.raises(UserError, match="waypoint has no such factor") as caught:
        Variant.of({"seed": "4", "guidance": "7"}).apply(tiny_scenario, None)
    assert (caught.value.found, caught.value.expected) == ("guidance", "one of schedule, seed, mask, policy")
