from itertools import pairwise

import pytest

from tests.harness.observations import FAMILY
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.variant import Variant
from waypoint_parity.harness.sweep.factors import SCENARIO, Choice, Factors, Setting, names_of

FACTORS = Factors(
    implementations=("candidate", "my_port.py:MyPort"),
    varied={
        "schedule": ("checkpoint", "1.0,0.0"),
        "seed": ("11", "12"),
        "mask": ("none", "zeroed"),
        "policy": ("per-frame", "global"),
    },
    dtypes=("fp32", "bf16"),
    attentions=("own", "fused-attention"),
)


def test_a_grid_has_every_combination_once() -> None:
    settings = list(FACTORS.grid())
    assert len(settings) == len(set(settings)) == 2**7
    for factor in set(names_of(FAMILY)) - {SCENARIO}:
        assert len({setting.levels(FAMILY, "walk")[factor] for setting in settings}) == 2


def test_what_an_implementation_is_loaded_for_anew_varies_slowest() -> None:
    loads = [(setting.implementation, setting.dtype, setting.attention) for setting in FACTORS.grid()]
    changes = sum(one != another for one, another in pairwise(loads))
    assert changes == len(set(loads)) - 1


def test_a_formulation_of_attention_is_an_option_of_the_implementation() -> None:
    assert Setting("my_port.py:MyPort", "fp32", "own", Variant()).candidate == "my_port.py:MyPort"
    assert Setting("eager", "fp32", "fused-attention", Variant()).candidate == "eager+fused-attention"


def test_a_level_that_keeps_the_scenarios_own_says_so() -> None:
    levels = Setting("eager", "fp32", "own", Variant()).levels(FAMILY, "walk")
    assert {levels[name] for name in ("seed", "policy", "mask")} == {"as recorded"}


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        (Choice(), 4),
        (Choice(only=[{"seed": "11"}]), 2),
        (Choice(only=[{"seed": "11", "mask": "none"}, {"seed": "12", "mask": "zeroed"}]), 2),
        (Choice(exclude=[{"seed": "11", "mask": "none"}]), 3),
        (Choice(only=[{"seed": "11"}], exclude=[{"mask": "none"}]), 1),
    ],
)
def test_a_choice_takes_what_agrees_with_it(choice: Choice, taken: int) -> None:
    grid = [{"seed": seed, "mask": mask} for seed in ("11", "12") for mask in ("none", "zeroed")]
    assert sum(map(choice.takes, grid)) == taken


def test_a_choice_of_no_factor_is_refused() -> None:
    with pytest.raises(UserError, match="names no factor") as error:
        Choice(only=[{"sed": "11"}]).check(FAMILY)
    assert error.value.found == "sed"
