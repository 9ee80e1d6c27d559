"""Variants: one scenario with some of its family's factors at other levels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.family import Family, family_named
from waypoint_parity.harness.run.scenario import Scenario

AS_RECORDED = "as recorded"


@dataclass(frozen=True)
class Variant:
    """What differs from the scenario as recorded: (factor, level) of those that do."""

    levels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, levels: Mapping[str, str | None]) -> Self:
        """The variant with these levels; a factor whose level is None keeps what the scenario has."""
        return cls(tuple((factor, level) for factor, level in levels.items() if level is not None))

    def name(self, family: Family) -> str:
        """A folder name: the levels in the order of the factors, those that keep the scenario's own left out."""
        levels = dict(self.levels)
        named = {name: levels.get(name, factor.kept) for name, factor in family.factors.items()}
        return "_".join(family.factors[name].name_of(level) for name, level in named.items() if level)

    def told(self, family: Family) -> dict[str, str]:
        """The level of every factor of the family, by its name."""
        levels = dict(self.levels)
        return {name: levels.get(name, factor.kept or AS_RECORDED) for name, factor in family.factors.items()}

    def apply(self, scenario: Scenario, geometry: Any) -> Scenario:
        """`scenario` under this variant. Raises UserError for an unknown factor or level, and where one cannot be."""
        family = family_named(scenario.family)
        if unknown := [name for name, _ in self.levels if name not in family.factors]:
            raise UserError(
                f"{family.name} has no such factor",
                found=unknown[0],
                expected=f"one of {', '.join(family.factors)}",
                do="correct its name, or leave it out",
            )
        levels, varied = dict(self.levels), scenario
        for name, factor in family.factors.items():
            if name in levels:
                varied = factor.change(varied, geometry, levels[name])
        return replace(varied, name=f"{scenario.name}/{self.name(family)}")
