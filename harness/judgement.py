"""How a comparison judges: the tolerance, and what may differ or lack by name.

The fixed tolerances per dtype are for runs without a measured noise floor.

`activations` bounds the relative L2 error of every site but `frame`, `frame` that of the decoded uint8 frame, where a
pixel on the edge between two levels turns any error at all into a whole level.

fp32: the two implementations here, and the official one, differ by at most 3e-6 at any site of a session of 14 frames;
bf16: two right formulations of one model differ by up to 1.3e-2 at a site, and more as a session goes on.
"""

from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import UserError


@dataclass(frozen=True)
class Tolerance:
    """The largest relative L2 error that is taken for noise."""

    activations: float
    frame: float

    def of(self, site: str) -> float:
        """The bound at `site`."""
        return self.frame if site == "frame" else self.activations

    def to_json(self) -> dict[str, Any]:
        """The bounds as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """What counts as parity in one comparison.

    `accepted_inputs`: names of inputs that may differ; `allowed_missing`: globs of sites that a side may lack.
    """

    tolerance: Tolerance
    accepted_inputs: tuple[str, ...] = ()
    allowed_missing: tuple[str, ...] = ()


FIXED = {
    "fp32": Tolerance(activations=1e-5, frame=1e-3),
    "bf16": Tolerance(activations=3e-2, frame=3e-2),
}


def fixed_tolerance(dtype: str) -> Tolerance:
    """The documented bounds for a dtype as the command line spells it."""
    try:
        return FIXED[dtype]
    except KeyError:
        raise UserError(
            "no tolerance is documented for this dtype",
            found=dtype,
            expected=f"one of {', '.join(FIXED)}",
            do="give --tolerance",
        ) from None
