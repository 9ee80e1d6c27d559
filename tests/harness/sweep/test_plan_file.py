from pathlib import Path

import pytest

from waypoint_parity.harness.cli.main import parse
from waypoint_parity.harness.cli.parity import ParityCommand
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.sweep.factors import Choice
from waypoint_parity.harness.sweep.plan_file import read_plan

PLAN = """
reference = "eager+fused-attention"

[factors]
implementation = ["candidate", "eager"]
schedule = ["checkpoint", "1.0,0.5,0.0"]
seed = [11, 12, 13]
mask = ["zeroed"]

[[only]]
seed = 11

[[only]]
schedule = "1.0,0.5,0.0"
implementation = "eager"

[[exclude]]
seed = 13
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(PLAN)
    return path


def test_a_plan_is_read_with_its_choice_of_cells(plan_file: Path) -> None:
    plan = read_plan(plan_file)
    assert plan.levels("seed") == ["11", "12", "13"]
    assert plan.levels("policy") is None
    assert plan.choice == Choice(
        only=[{"seed": "11"}, {"schedule": "1.0,0.5,0.0", "implementation": "eager"}], exclude=[{"seed": "13"}]
    )


def test_what_a_plan_names_takes_the_place_of_the_flags(
    plan_file: Path, tiny_folder: Path, scenario_file: Path
) -> None:
    inputs = ["--checkpoint", str(tiny_folder), "--scenario", str(scenario_file)]
    flags = ["--seed", "7", "--noise-policy", "global", "sliced", "--jobs", "1"]
    command = parse(["parity", "--plan", str(plan_file), *inputs, *flags])
    assert isinstance(command, ParityCommand)
    run, cells = command.prepare()
    assert run.rules.reference == "eager+fused-attention"
    # Of 24: seed 11 in both schedules by both, the custom schedule with seed 12 by eager; under two policies each.
    assert len(cells) == (4 + 1) * 2
    assert {cell.factors["policy"] for cell in cells} == {"global", "sliced"}
    assert {cell.factors["seed"] for cell in cells} == {"11", "12"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seeds = [1]", "seeds"),
        ("[factors]\nseed = 'one'", "$.factors[...]"),
        ("[factors]\nmask = [0.5]", "$.factors[...][0]"),
        ("[factors", "Expected"),
    ],
)
def test_a_plan_that_is_none_is_refused_by_name(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"sweep\.toml: cannot be read as a plan") as error:
        read_plan(path)
    assert found in error.value.found


def test_a_plan_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.toml: cannot be read as a plan"):
        read_plan(tmp_path / "sweep.toml")
