"""How far one side is from the other at a site, as a value."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Error:
    """The distance of `actual` from `expected` at one site.

    `rel_l2` = ||actual - expected|| / ||expected||, infinite where no distance exists (`note` says why); `cosine` and
    `norm_ratio` = ||actual|| / ||expected|| are None where a norm is 0; `max_abs` is None where only records are known.
    """

    identical: bool
    rel_l2: float
    cosine: float | None = None
    norm_ratio: float | None = None
    max_abs: float | None = None
    note: str | None = None
    # How far apart the exact values are, where both are known; the error by itself over what rounding explains; and the
    # error of a free-running session over what rounding grows to.
    exact: float | None = None
    local: float | None = None
    grown: float | None = None
    # Of a tensor of one element that differs: the element itself, (actual, expected).
    values: tuple[float, float] | None = None
    # Where only statistics tell of it: of how many elements, 1 if nobody knows. It is at least `rel_l2` then; NaN where
    # they share none.
    by_statistics_of: int = 0
    # Of whole numbers, which are equal or not.
    whole: bool = False
    # Neither side has a finite value: equal or not, that proves nothing.
    hollow: bool = False
    # Neither side has an element.
    empty: bool = False
    # The types of both tensors, (actual, expected), where they differ.
    dtypes: tuple[str, str] | None = None

    @property
    def log_norm(self) -> float:
        """|log(norm ratio)|: how far the norms are apart; infinite where one norm is 0, 0 where none is known."""
        if self.norm_ratio is None:
            return 0.0
        return abs(math.log(self.norm_ratio)) if self.norm_ratio else math.inf


def error_of(
    distance: float, norms: tuple[float, float], product: float, *, max_abs: float | None, identical: bool
) -> Error:
    """The error of two vectors with these `norms` (actual, expected), this distance and this inner product."""
    actual, expected = norms
    relative = distance / expected if expected else (math.inf if distance else 0.0)
    cosine = max(-1.0, min(1.0, product / (actual * expected))) if actual and expected else None
    return Error(identical, relative, cosine, actual / expected if expected else None, max_abs)


def no_distance(note: str) -> Error:
    """The error where none can be measured, for the reason that `note` gives."""
    return Error(identical=False, rel_l2=math.inf, note=note)
