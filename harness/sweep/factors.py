"""Factors: what a sweep varies, and the grid of their levels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.variant import Variant

# The attention of an implementation without an option: the formulation that it has by itself.
OWN = "own"
IMPLEMENTATION, DTYPE, ATTENTION, SCENARIO = "implementation", "dtype", "attention", "scenario"


def names_of(family: Family) -> tuple[str, ...]:
    """Every factor of a sweep: the general ones, and those of the family."""
    return (IMPLEMENTATION, DTYPE, ATTENTION, SCENARIO, *family.factors)


@dataclass(frozen=True)
class Setting:
    """One level of every factor but the scenario."""

    implementation: str
    dtype: str
    attention: str
    variant: Variant

    @property
    def candidate(self) -> str:
        """The implementation as the registry takes it, its formulation of attention among its options."""
        return self.implementation if self.attention == OWN else f"{self.implementation}+{self.attention}"

    def levels(self, family: Family, scenario: str) -> dict[str, str]:
        """The levels by the factor's name, on the scenario called so."""
        loaded = {IMPLEMENTATION: self.implementation, DTYPE: self.dtype, ATTENTION: self.attention}
        return {**loaded, SCENARIO: scenario, **self.variant.told(family)}


@dataclass(frozen=True)
class Factors:
    """The levels of every factor; `varied` are those of the family's. None as a level keeps what the scenario has."""

    implementations: Sequence[str]
    varied: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    dtypes: Sequence[str] = ("fp32",)
    attentions: Sequence[str] = (OWN,)

    def grid(self) -> Iterator[Setting]:
        """Every combination; what an implementation is loaded for anew varies slowest."""
        for loaded in product(self.implementations, self.dtypes, self.attentions):
            for levels in product(*self.varied.values()):
                yield Setting(*loaded, Variant.of(dict(zip(self.varied, levels, strict=True))))

    def as_recorded(self) -> Iterator[Setting]:
        """A scenario as it is, by every implementation, dtype and formulation."""
        for loaded in product(self.implementations, self.dtypes, self.attentions):
            yield Setting(*loaded, Variant())


@dataclass(frozen=True)
class Choice:
    """The cells of a grid that are run: those that agree with one of `only`, and with none of `exclude`.

    Each is levels by factor, and says nothing of the factors that it does not name.
    """

    only: Sequence[Mapping[str, str]] = ()
    exclude: Sequence[Mapping[str, str]] = ()

    def check(self, family: Family) -> None:
        """Raise UserError for a factor that there is none of."""
        names = names_of(family)
        unknown = sorted({name for levels in (*self.only, *self.exclude) for name in levels} - set(names))
        if unknown:
            raise UserError(
                "a choice of cells names no factor",
                found=listed(unknown),
                expected=f"any of {', '.join(names)}",
                do="correct the plan",
            )

    def takes(self, levels: Mapping[str, str]) -> bool:
        """Whether the cell with these levels is run."""
        if any(_agree(levels, left_out) for left_out in self.exclude):
            return False
        return not self.only or any(_agree(levels, taken) for taken in self.only)


def _agree(levels: Mapping[str, str], named: Mapping[str, str]) -> bool:
    return all(levels.get(name) == level for name, level in named.items())
