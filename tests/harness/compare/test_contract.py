from typing import Any

import pytest

from tests.harness.observations import FAMILY, manifest
from waypoint_parity.harness.compare.contract import (
    accepted_sites,
    clock_shift,
    unlike_environments,
    unlike_inputs,
    unlike_models,
)
from waypoint_parity.harness.errors import UserError

ACCEPTABLE = (*FAMILY.sites.acceptable, "checkpoint", "dtype")
INPUTS = {name: f"{name} as recorded" for name in ("noise", "button", "mouse", "scroll", "sigmas", "prompt_emb")}


@pytest.mark.parametrize(
    ("changes", "name"), [({"checkpoint_digest": "another"}, "checkpoint"), ({"numerics": {"dtype": "bf16"}}, "dtype")]
)
def test_runs_of_another_model_or_precision_are_incomparable_unless_that_is_accepted(
    changes: dict[str, Any], name: str
) -> None:
    reason = unlike_models(manifest(**changes), manifest())
    assert reason is not None
    assert reason.startswith(f"{name} differs: candidate ")
    assert unlike_models(manifest(**changes), manifest(), [name]) is None
    others = [other for other in ACCEPTABLE if other != name]
    assert unlike_models(manifest(**changes), manifest(), others) == reason


def test_runs_of_another_family_are_incomparable_before_anything_else() -> None:
    reason = unlike_models(manifest(family="clips", checkpoint_digest="another"), manifest(), ["checkpoint"])
    assert reason == "family differs: candidate clips, reference waypoint"


@pytest.mark.parametrize(
    "changes",
    [
        {"implementation": "candidate"},
        {"scenario_name": "another name"},
        {"checkpoint_origin": "elsewhere"},
        {"threads": 8, "platform": "another", "torch": "2.12.0"},
        {"numerics": {"dtype": "fp32", "device": "cuda", "compiled": "true"}},
    ],
    ids=str,
)
def test_what_two_right_runs_may_differ_in_breaks_no_contract(changes: dict[str, Any]) -> None:
    assert unlike_models(manifest(**changes), manifest()) is None
    assert unlike_inputs(manifest(**changes), manifest()) is None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"implementation": "candidate", "platform": "another"}, []),
        ({"threads": 8, "torch": "2.12.0"}, ["torch", "threads"]),
        ({"numerics": {"dtype": "fp32", "device": "cuda"}}, ["device"]),
        ({"processor": "aarch64, DEFAULT"}, ["processor"]),
        ({"processor": None}, []),
    ],
    ids=str,
)
def test_what_rounds_differently_by_itself_is_told(changes: dict[str, Any], names: list[str]) -> None:
    told = unlike_environments(manifest(**changes), manifest(processor="x86_64, AVX2"))
    assert [each.split()[0] for each in told] == names


@pytest.mark.parametrize("name", INPUTS)
def test_an_accepted_name_lifts_its_own_input_and_no_other(name: str) -> None:
    reference = manifest(inputs=INPUTS)
    candidate = manifest(inputs=INPUTS | {name: "another"}, scenario_digest="another")
    reason = f"{name} differs: candidate another, reference {name} as recorded"
    assert unlike_inputs(candidate, reference) == reason
    lifting = {accepted for accepted in ACCEPTABLE if unlike_inputs(candidate, reference, [accepted]) is None}
    own = "sigma" if name == "sigmas" else name
    assert lifting == {own} | ({"controls"} if name in ("button", "mouse", "scroll") else set())


def test_an_input_that_one_scenario_lacks_differs() -> None:
    fewer = {name: digest for name, digest in INPUTS.items() if name != "prompt_emb"}
    reason = unlike_inputs(manifest(inputs=fewer), manifest(inputs=INPUTS))
    assert reason == "prompt_emb differs: candidate none, reference prompt_emb as recorded"


@pytest.mark.parametrize(
    ("changes", "name"), [({"scenario_digest": "another"}, "scenario"), ({"sigmas": [1.0, 0.0]}, "schedule")]
)
def test_manifests_without_digests_of_each_input_are_compared_as_a_whole(changes: dict[str, Any], name: str) -> None:
    reason = unlike_inputs(manifest(**changes), manifest())
    assert reason is not None
    assert reason.startswith(f"{name} differs: ")
    assert unlike_inputs(manifest(**changes), manifest(), ["dtype", "checkpoint"]) == reason


def test_without_digests_an_accepted_input_excuses_the_scenario_but_not_the_schedule() -> None:
    candidate = manifest(scenario_digest="another", sigmas=[1.0, 0.0])
    reason = unlike_inputs(candidate, manifest(), ["noise"])
    assert reason is not None
    assert reason.startswith("schedule differs")
    assert unlike_inputs(candidate, manifest(), ["sigma"]) is None


def test_a_name_that_accepts_nothing_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match="nothing that could differ has this name") as caught:
        accepted_sites(["noise", "noize"], FAMILY)
    assert caught.value.found == "noize"
    assert "prompt_pad_mask" in caught.value.expected


def test_names_stand_for_the_inputs_as_implementations_consume_them() -> None:
    assert accepted_sites(["sigma"], FAMILY) == {"input.sigma"}
    assert accepted_sites(["controls"], FAMILY) == {"input.button", "input.mouse", "input.scroll"}
    assert accepted_sites(["checkpoint", "dtype"], FAMILY) == set()


@pytest.mark.parametrize(
    ("candidate", "reference", "shift"),
    [
        ([1, 2, 3], [0, 1, 2], 1),
        ([0, 1], [2, 3], -2),
        ([0, 1], [0, 1], 0),
        ([0, 2], [0, 1], 0),
        ([1, 2], [0], 0),
        ([], [], 0),
    ],
)
def test_a_clock_is_shifted_where_every_unit_is_by_as_much(
    candidate: list[int], reference: list[int], shift: int
) -> None:
    assert clock_shift(candidate, reference) == shift
