"""How a comparison judges: the largest error that is taken for noise, and what may differ or lack by name.

Two kinds of bounds. A noise floor (harness/judge/noise_floor) was measured on the checkpoint. The fixed tolerances
here are for runs without one.

fp32: the two implementations here, and the official one, differ by at most 3e-6 at any site of a session of 14 frames;
bf16: two right formulations of one model differ by up to 1.3e-2 at a site, and more as a session goes on.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.keys import Key


class Limits(NamedTuple):
    """The largest errors at one observation that are taken for noise.

    `rel_l2` bounds the relative L2 error, `log_norm` the magnitude of log(norm ratio); infinite where not judged.
    """

    rel_l2: float
    log_norm: float = math.inf


class Bounds(Protocol):
    """Knows the limits of every observation of a run.

    `frames`: how many frames have limits of their own; those from there on have the same ones.
    """

    @property
    def frames(self) -> int:
        """How many frames have limits of their own."""
        ...

    def of(self, key: Key) -> Limits:
        """The limits at `key`."""
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

    `activations` holds at every site but `frame`, `frame` at the decoded uint8 frame, where a pixel on the edge between
    two levels turns any error at all into a whole level. `reason` says why no noise floor is used.
    """

    activations: float
    frame: float
    reason: str = "no noise floor was given"
    # The same in every frame.
    frames: ClassVar[int] = 0

    def of(self, key: Key) -> Limits:
        """The limits at `key`."""
        return Limits(self.frame if key.site == "frame" else self.activations)

    def for_sketches(self, observations: int) -> Self:
        """The same: a fixed tolerance is far above the noise that it stands for."""
        return self

    def to_json(self) -> dict[str, Any]:
        """What the bounds are."""
        return {"kind": "fixed tolerances", "activations": self.activations, "frame": self.frame, "reason": self.reason}


@dataclass(frozen=True)
class Judgement:
    """What counts as parity in one comparison.

    `accepted_inputs`: names of inputs that may differ; `allowed_missing`: globs of sites that a side may lack.
    """

    bounds: Bounds
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
