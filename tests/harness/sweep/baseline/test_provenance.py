import pytest

from tests.harness.observations import FAMILY, manifest
from tests.harness.sweep.baseline.conftest import INPUTS, SAYS
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.sweep.baseline.provenance import (
    Difference,
    accepted_inputs,
    check_accepted,
    differences,
    lifts,
    provenance,
)

FP32 = {"dtype": "fp32", "device": "cpu", "compiled": "false", "options": ""}


def made(**changes: object) -> dict[str, str]:
    return provenance(manifest(**{"inputs": INPUTS, "description": SAYS, "numerics": FP32, **changes}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("checkpoint", {"checkpoint_digest": "0ther"}),
        ("schedule", {"sigmas": [1.0, 0.5000001, 0.0]}),
        ("noise", {"inputs": INPUTS | {"noise": "n1"}}),
        ("inputs.button", {"inputs": INPUTS | {"button": "b1"}}),
        ("inputs.image", {"inputs": INPUTS | {"image": "i1"}}),
        ("selection", {"selection": Selection(sites=("latent",))}),
        ("dtype", {"numerics": FP32 | {"dtype": "bf16"}}),
        ("torch", {"torch": "2.14.0"}),
        ("backend.device", {"numerics": FP32 | {"device": "cuda"}}),
        ("backend.compiled", {"numerics": FP32 | {"compiled": "true"}}),
        ("backend.options", {"numerics": FP32 | {"options": "patched"}}),
        ("backend.platform", {"platform": "macOS-15.1-arm64-arm-64bit"}),
        ("backend.attention", {"description": SAYS | {"attention": "explicit softmax"}}),
        ("threads", {"threads": 2}),
        ("source.version", {"description": SAYS | {"version": "0.2"}}),
        ("source.patches", {"description": SAYS | {"patches": "merged QKV"}}),
    ],
)
def test_every_difference_is_told_by_its_name_and_nothing_else(name: str, changes: dict[str, object]) -> None:
    found = differences(made(), made(**changes), same_implementation=True)
    assert [difference.name for difference in found] == [name]
    assert found[0].baseline == made().get(name)
    assert found[0].run == made(**changes)[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"source_revision": "1cc1e47"},
        {"checkpoint_origin": "elsewhere"},
        {"seconds": 9.0},
        {"scenario_name": "run"},
        {"scenario_digest": "0ther"},
        {"inputs": INPUTS | {"sigmas": "s1"}},
    ],
)
def test_what_no_number_depends_on_and_what_is_told_elsewhere_is_no_provenance(changes: dict[str, object]) -> None:
    assert differences(made(), made(**changes), same_implementation=True) == []


def test_an_engine_that_tells_no_inputs_is_held_to_its_scenario() -> None:
    found = differences(made(inputs=None), made(inputs=None, scenario_digest="0ther"), same_implementation=True)
    assert [difference.name for difference in found] == ["scenario"]


def test_a_new_kernel_is_the_same_platform_and_another_processor_is_not() -> None:
    linux = "Linux-{}-x86_64-with-glibc2.36"
    ours = made(platform=linux.format("6.8.0-45-generic"))
    assert ours["backend.platform"] == "Linux x86_64, glibc2.36"
    assert ours == made(platform=linux.format("6.18.44"))
    assert ours != made(platform="Linux-6.18.44-aarch64-with-glibc2.36")


def test_what_an_implementation_says_of_itself_is_not_held_against_another() -> None:
    changes = {"description": {"version": "9", "attention": "eager"}, "numerics": FP32 | {"options": "patched"}}
    assert differences(made(), made(**changes), same_implementation=False) == []
    assert len(differences(made(), made(**changes, threads=2), same_implementation=False)) == 1


def test_a_name_accepts_itself_and_a_group_all_that_is_in_it() -> None:
    platform = Difference(name="backend.platform", baseline="a", run="b")
    assert lifts(["backend"], platform)
    assert lifts(["backend.platform"], platform)
    assert not lifts(["backend.device", "threads"], platform)


def test_a_name_that_accepts_nothing_is_refused() -> None:
    check_accepted(["backend.platform", "threads"])
    with pytest.raises(UserError, match="thread") as caught:
        check_accepted(["backend", "thread"])
    assert caught.value.found == "thread"


def test_an_accepted_input_may_differ_in_the_comparison_too() -> None:
    names = ["schedule", "noise", "inputs.button", "checkpoint", "torch", "backend.device"]
    accepted = [Difference(name=name, baseline="a", run="b") for name in names]
    assert accepted_inputs(accepted, FAMILY) == ("checkpoint", "button", "noise", "sigma")
    scenario = accepted_inputs([Difference(name="scenario", baseline="a", run="b")], FAMILY)
    assert {"sigma", "noise", "controls", "prompt_emb", "image"} <= set(scenario)
    assert "checkpoint" not in scenario
