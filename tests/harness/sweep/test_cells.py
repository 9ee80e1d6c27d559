import pytest
import torch

from tests.harness.observations import FAMILY
from tests.harness.sweeps import tiny_cells
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import fixed_tolerance
from waypoint_parity.harness.judge.standards import Standards
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.cells import Conditions, plan
from waypoint_parity.harness.sweep.factors import Choice, Factors

SWEPT = {"schedule": ("checkpoint", "single-step"), "seed": ("1", "2"), "mask": ("none", "zeroed")}


def conditions(dtype: str) -> Conditions:
    return Conditions(
        Numerics(torch.float32 if dtype == "fp32" else torch.bfloat16, torch.device("cpu")),
        Standards(fixed_tolerance(FAMILY, dtype)),
    )


def test_every_cell_has_a_name_that_is_a_folder_of_its_own(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    factors = Factors(
        ("candidate", "tests/parity/faulty.py:VelocityScaled"),
        varied=SWEPT,
        dtypes=("fp32", "bf16"),
        attentions=("own", "x"),
    )
    cells = plan(tiny, factors, tiny_scenario, conditions, recorded=[tiny_scenario])
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 2 * (8 + 1)
    assert not any(set(cell.name) & set("/: ") for cell in cells)


def test_a_cell_has_the_levels_it_was_made_of(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    factors = Factors(("candidate",), varied=SWEPT, dtypes=("fp32", "bf16"))
    for cell in plan(tiny, factors, tiny_scenario, conditions):
        assert cell.numerics.dtype_name == cell.factors["dtype"]
        assert cell.standards == Standards(fixed_tolerance(FAMILY, cell.factors["dtype"]))
        assert str(cell.scenario.seed) == cell.factors["seed"]
        assert (cell.scenario.get("sigmas") is not None) == (cell.factors["schedule"] == "single-step")


def test_a_recorded_scenario_is_run_as_it_is(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    factors = Factors(("candidate",), varied=SWEPT)
    *_, recorded = plan(tiny, factors, tiny_scenario, conditions, recorded=[tiny_scenario])
    assert recorded.scenario.digest == tiny_scenario.digest


def test_a_plan_takes_the_cells_that_are_chosen(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    factors, choice = Factors(("candidate",), varied=SWEPT), Choice(only=[{"seed": "2", "mask": "none"}])
    cells = plan(tiny, factors, tiny_scenario, conditions, choice=choice)
    assert [cell.name for cell in cells] == [
        "short_checkpoint_seed2_none-padding",
        "short_single-step_seed2_none-padding",
    ]


def test_an_empty_sweep_is_refused(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="the sweep is empty"):
        tiny_cells(tiny, tiny_scenario, fp32_on_cpu, seed=())


def test_a_scenario_that_does_not_fit_is_refused(
    base: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    with pytest.raises(UserError, match="does not fit"):
        tiny_cells(base, tiny_scenario, fp32_on_cpu)
