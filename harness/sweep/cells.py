"""The cells of a sweep: each one comparison, and everything that it is run with."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.standards import Standards
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.variant import Variant
from waypoint_parity.harness.sweep.factors import OWN, Choice, Factors, Setting

_UNFIT = re.compile(r"[^\w.,+-]+")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a candidate on a scenario as its variant has it; `factors` are the levels by name."""

    name: str
    factors: dict[str, str]
    candidate: str
    numerics: Numerics
    standards: Standards
    scenario: Scenario
    variant: Variant
    # The words of a command that runs this cell alone, where whoever planned it knows one.
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conditions:
    """What goes with a dtype: how to compute in it, and what its runs are judged by."""

    numerics: Numerics
    standards: Standards


def plan(
    checkpoint: Checkpoint,
    factors: Factors,
    scenario: Scenario,
    conditions: Callable[[str], Conditions],
    *,
    recorded: Sequence[Scenario] = (),
    choice: Choice | None = None,
) -> list[Cell]:
    """The cells of a sweep of `scenario`, and of `recorded` ones that are run as they are.

    Raises UserError for a scenario that does not fit the checkpoint, and for a sweep without cells.
    """
    chosen, by_dtype = choice or Choice(), {dtype: conditions(dtype) for dtype in factors.dtypes}
    chosen.check(checkpoint.family)
    several = len(factors.implementations) > 1

    def cells(of: Scenario, settings: Iterable[Setting]) -> list[Cell]:
        return [
            _cell(checkpoint, of, setting, by_dtype[setting.dtype], several)
            for setting in settings
            if chosen.takes(setting.levels(checkpoint.family, of.name))
        ]

    planned = cells(scenario, factors.grid())
    for another in recorded:
        planned += cells(another, factors.as_recorded())
    if not planned:
        raise UserError(
            "the sweep is empty",
            found="no cell",
            expected="at least one level of each factor, and a cell that the plan takes",
            do="name at least one level of each, or correct the plan's [[only]] and [[exclude]]",
        )
    return planned


def _cell(checkpoint: Checkpoint, scenario: Scenario, setting: Setting, under: Conditions, several: bool) -> Cell:
    applied = setting.variant.apply(scenario, checkpoint.geometry)
    checkpoint.check_scenario(applied)
    parts = [
        applied.name,
        "" if setting.dtype == "fp32" else setting.dtype,
        "" if setting.attention == OWN else setting.attention,
        setting.implementation if several else "",
    ]
    return Cell(
        name=_UNFIT.sub("_", "_".join(part for part in parts if part)),
        factors=setting.levels(checkpoint.family, scenario.name),
        candidate=setting.candidate,
        numerics=under.numerics,
        standards=under.standards,
        scenario=applied,
        variant=setting.variant,
    )
