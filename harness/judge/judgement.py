"""How a comparison judges: the largest error that is taken for noise, and what may differ or lack by name.

Two kinds of bounds. A noise floor (harness/judge/noise_floor) was measured on the checkpoint. The fixed tolerances
here are for runs without one.

They are its family's, which says what they rest on.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.sites import Kind

# The largest relative distance of exact values that is taken for the same mathematics. Measured: right implementations
# reach 1e-14, one weight off by a rounding of fp32 is 1e-8.
SAME_MATHEMATICS = 1e-10
# The largest error that is taken for rounding, in spreads. Measured: right implementations reach 1.8, wrong ones begin
# at 24.
FACTOR = 6.0
# Less than two units of fp32, in which sums are made, is no error in any dtype.
FLOOR = 2 * 2.0**-23
# What a port may cost on purpose, by name: the spread that is granted, the largest error of one rounding to it.
AS_REFERENCE = "as-reference"
PRECISIONS = {AS_REFERENCE: FLOOR, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}


# The largest error that statistics alone may prove, by dtype, where `activations` is not smaller. Rounding moves a norm
# far less than its values: a right run in bf16 by 1.3e-4 at width 2560, where one per cent too much proves 1.0e-2.
_STATISTICS = {"bf16": 2.0**-9, "fp16": 2.0**-11}


class Limits(NamedTuple):
    """The largest errors at one observation that are taken for noise.

    `rel_l2` bounds the relative L2 error, `log_norm` the magnitude of log(norm ratio); infinite where not judged.
    """

    rel_l2: float
    log_norm: float = math.inf


class Bounds(Protocol):
    """Knows the limits of every observation of a run.

    `units`: how many units have limits of their own; those from there on have the same ones.
    """

    @property
    def units(self) -> int:
        """How many units have limits of their own."""
        ...

    def of(self, key: Key) -> Limits:
        """The limits at `key`."""
        ...

    @property
    def statistics(self) -> float:
        """The largest error that statistics alone may prove: see harness.compare.least_error."""
        ...

    def for_sketches(self, observations: int) -> Self:
        """The bounds for so many errors that were estimated from sketches, instead of measured on full tensors."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What the bounds are, for a report: `kind`, and what identifies them."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """Fixed bounds of the relative L2 error.

    `activations` holds at every site but those in `shown_at`, where decoded uint8 pictures are shown: `pictures` does.
    There a pixel on the edge between two levels turns any error at all into a whole level. `reason` says why no noise
    floor is used.
    """

    activations: float
    pictures: float
    reason: str = "no noise floor was given"
    shown_at: tuple[str, ...] = ()
    statistics: float = 0.0
    # The same in every unit.
    units: ClassVar[int] = 0

    def of(self, key: Key) -> Limits:
        """The limits at `key`."""
        return Limits(self.pictures if key.site in self.shown_at else self.activations)

    def for_sketches(self, observations: int) -> Self:
        """The same: a fixed tolerance is far above the noise that it stands for."""
        return self

    def to_json(self) -> dict[str, Any]:
        """What the bounds are."""
        return {
            "kind": "fixed tolerances",
            "activations": self.activations,
            "pictures": self.pictures,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Judgement:
    """What counts as parity in one comparison.

    `accepted_inputs`: names of inputs that may differ; `allowed_missing`: globs of sites that a side may lack;
    `precision`: what the candidate may cost on purpose, one of PRECISIONS.
    """

    bounds: Bounds
    accepted_inputs: tuple[str, ...] = ()
    allowed_missing: tuple[str, ...] = ()
    precision: str = AS_REFERENCE

    @property
    def least(self) -> float:
        """The least spread of rounding, in whatever dtype."""
        return PRECISIONS[self.precision]


def fixed_tolerance(family: Family, dtype: str, *, activations: float | None = None, reason: str = "") -> Tolerance:
    """A family's documented bounds for a dtype as the command line spells it; or another one of its `activations`."""
    documented = family.tolerances.get(dtype) or (None if activations is None else (activations, activations))
    if documented is None:
        raise UserError(
            "no tolerance is documented for this dtype",
            found=dtype,
            expected=f"one of {', '.join(family.tolerances)}",
            do="give --tolerance",
        )
    known = min(_STATISTICS.get(dtype, documented[0]), documented[0])
    return Tolerance(
        activations=documented[0] if activations is None else activations,
        pictures=documented[1],
        statistics=known if activations is None else activations,
        reason=reason or Tolerance.reason,
        shown_at=tuple(family.sites.sites(Kind.PICTURE)),
    )
