"""Factors: what a sweep varies, and the grid of their levels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint.levels import NoisePolicy, PromptMask
from waypoint_parity.harness.families.waypoint.variant import Variant

# The attention of an implementation without an option: the formulation that it has by itself.
OWN = "own"
AS_RECORDED = "as recorded"
IMPLEMENTATION, ATTENTION, DTYPE, SCENARIO = "implementation", "attention", "dtype", "scenario"
SCHEDULE, SEED, POLICY, MASK = "schedule", "seed", "policy", "mask"
NAMES = (IMPLEMENTATION, DTYPE, ATTENTION, SCENARIO, SCHEDULE, SEED, POLICY, MASK)


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

    @property
    def levels(self) -> dict[str, str]:
        """The levels by the factor's name."""
        variant = self.variant
        return {
            IMPLEMENTATION: self.implementation,
            DTYPE: self.dtype,
            ATTENTION: self.attention,
            SCHEDULE: variant.schedule,
            SEED: AS_RECORDED if variant.seed is None else str(variant.seed),
            POLICY: variant.noise_policy or AS_RECORDED,
            MASK: variant.prompt_mask or AS_RECORDED,
        }


@dataclass(frozen=True)
class Factors:
    """The levels of every factor; None as a level keeps what the scenario has."""

    implementations: Sequence[str]
    schedules: Sequence[str]
    seeds: Sequence[int | None]
    masks: Sequence[PromptMask | None]
    policies: Sequence[NoisePolicy | None] = (None,)
    dtypes: Sequence[str] = ("fp32",)
    attentions: Sequence[str] = (OWN,)

    def grid(self) -> Iterator[Setting]:
        """Every combination; what an implementation is loaded for anew varies slowest."""
        for implementation, dtype, attention in product(self.implementations, self.dtypes, self.attentions):
            for variant in product(self.schedules, self.seeds, self.masks, self.policies):
                yield Setting(implementation, dtype, attention, Variant(*variant))

    def as_recorded(self) -> Iterator[Setting]:
        """A scenario as it is, by every implementation, dtype and formulation."""
        for implementation, dtype, attention in product(self.implementations, self.dtypes, self.attentions):
            yield Setting(implementation, dtype, attention, Variant())


@dataclass(frozen=True)
class Choice:
    """The cells of a grid that are run: those that agree with one of `only`, and with none of `exclude`.

    Each is levels by factor, and says nothing of the factors that it does not name.
    """

    only: Sequence[Mapping[str, str]] = ()
    exclude: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        unknown = sorted({name for levels in (*self.only, *self.exclude) for name in levels} - set(NAMES))
        if unknown:
            raise UserError(
                "a choice of cells names no factor",
                found=listed(unknown),
                expected=f"any of {', '.join(NAMES)}",
                do="correct the plan",
            )

    def takes(self, levels: Mapping[str, str]) -> bool:
        """Whether the cell with these levels is run."""
        if any(_agree(levels, left_out) for left_out in self.exclude):
            return False
        return not self.only or any(_agree(levels, taken) for taken in self.only)


def _agree(levels: Mapping[str, str], named: Mapping[str, str]) -> bool:
    return all(levels.get(name) == level for name, level in named.items())
