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
from waypoint_parity.harness.judge.judgement import FACTOR, SAME_MATHEMATICS
from waypoint_parity.harness.record.records import Exact


class ExactErrors(NamedTuple):
    """Of pairs [n]: how far the exact values are apart, and the candidate's error over its bound. NaN: not known."""

    exact: Numbers
    local: Numbers


def recorded_errors(actual: Columns, expected: Columns, least: float) -> ExactErrors:
    """What two dumps tell of these pairs [n]; `least` is the least spread of rounding."""
    found = ExactErrors(np.full(len(expected), math.nan), np.full(len(expected), math.nan))
    for index in np.flatnonzero(expected.exact.astype(bool)).tolist():
        same_shape = actual.alike[index] == expected.alike[index] or _shape(actual, index) == _shape(expected, index)
        if same_shape and not actual.special[index].any() and not expected.special[index].any():
            ours, theirs = actual.exact[index], expected.exact[index]
            found.exact[index], found.local[index] = _errors(ours, theirs, actual.sketches[index], least)
    return found


def _shape(columns: Columns, index: int) -> list[int]:
    return columns.record(index).shape


def _errors(actual: Exact | None, expected: Exact, shown: npt.NDArray[np.float32], least: float) -> tuple[float, float]:
    """The distance of the exact values, NaN where the candidate's is not known, and the candidate's error."""
    right = expected.projection()
    apart = math.nan
    if actual is not None:
        apart = float(np.linalg.norm(actual.projection() - right)) / max(expected.norm, actual.norm)
    if actual is not None and apart <= SAME_MATHEMATICS:
        error = actual.distance
    else:
        # A sketch tells distances to within 9 %.
        error = float(np.linalg.norm(shown - right)) / expected.norm
    return apart, error / max(FACTOR * max(expected.spread, least), expected.distance)
