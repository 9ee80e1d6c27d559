"""Dumps that carry their own bounds: exact values held against each other, and errors over what rounding explains.

A dump of a run that was followed has beside each observation the sketch of its exact value, how far it is from that,
and how far rounding alone takes it by then. So it can be judged without tolerances: against another such dump by
mathematics and by precision, and any other dump by what rounding explains in this very session.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.columns import Columns, Numbers
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import FACTOR, FLOOR, SAME_MATHEMATICS
from waypoint_parity.harness.record.records import Exact

# A sketch's estimate is off by 9 % (one standard deviation), by a little more where a difference has a pattern.
_CONTRADICTS = 1.0


class ExactErrors(NamedTuple):
    """Of pairs [n]: how far the exact values are apart; the candidate's error over its bound, and that bound.

    NaN is not known. Bounds are relative to the exact values' norms.
    """

    exact: Numbers
    local: Numbers
    bound: Numbers


def recorded_errors(actual: Columns, expected: Columns, least: float) -> ExactErrors:
    """What two dumps tell of these pairs [n]; `least` is the least spread of rounding.

    Raises UserError where what a record says of its exact value contradicts its values.
    """
    found = ExactErrors(*(np.full(len(expected), math.nan) for _ in ExactErrors._fields))
    for index in np.flatnonzero(expected.exact.astype(bool)).tolist():
        same_shape = actual.alike[index] == expected.alike[index] or _shape(actual, index) == _shape(expected, index)
        sketched = not any(np.isnan(side.sketches[index]).all() for side in (actual, expected))
        if sketched and same_shape and not actual.special[index].any() and not expected.special[index].any():
            for side in (actual, expected):
                _check(side, index)
            errors = _errors(actual.exact[index], expected.exact[index], actual.sketches[index], least)
            found.exact[index], found.local[index], found.bound[index] = errors
    return found


def _shape(columns: Columns, index: int) -> list[int] | None:
    return columns.record(index).shape


def _check(columns: Columns, index: int) -> None:
    """Hold the distance that a record claims against its sketches, which tell it to within 9 %."""
    exact: Exact | None = columns.exact[index]
    if exact is None:
        return
    estimated = float(np.linalg.norm(columns.sketches[index] - exact.projection())) / exact.norm
    if not abs(estimated - exact.distance) <= _CONTRADICTS * max(exact.distance, FLOOR):
        raise UserError(
            f"{columns.record(index).key}: its exact value is not that of the observation",
            found=f"{estimated:.1e} from the observation's sketch to that of its exact value",
            expected=f"{exact.distance:.1e}, the distance in the record",
            do="dump again; a record was changed, or its exact value is that of another run",
        )


def _errors(
    actual: Exact | None, expected: Exact, shown: npt.NDArray[np.float32], least: float
) -> tuple[float, float, float]:
    """The distance of the exact values, NaN where the candidate's is not known, the candidate's error, its bound."""
    right = expected.projection()
    apart = math.nan
    if actual is not None:
        apart = float(np.linalg.norm(actual.projection() - right)) / max(expected.norm, actual.norm)
    if actual is not None and apart <= SAME_MATHEMATICS:
        error = actual.distance
    else:
        # A sketch tells distances to within 9 %.
        error = float(np.linalg.norm(shown - right)) / expected.norm
    bound = max(FACTOR * max(expected.spread, least), expected.distance)
    return apart, error / bound, bound
