"""The error at a site from both sides' records alone: without tensors, and without torch."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.distance import Error, error_of, no_distance
from harness.records import Record


def record_error(actual: Record, expected: Record) -> Error:
    """The error that two records tell of.

    Distance and product come from the sketches, whose estimates of a norm are good to 9 % (one standard deviation);
    the norms themselves from rms and shape.
    """
    if actual.shape != expected.shape:
        return no_distance(f"shape {actual.shape}, not {expected.shape}")
    if actual.non_finite != expected.non_finite:
        return no_distance(f"NaN, +inf, -inf counts {actual.non_finite}, not {expected.non_finite}")
    if same_values(actual, expected):
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)
    left, right = _projection(actual), _projection(expected)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return no_distance("the values are too large for a sketch")
    finite = math.prod(expected.shape) - sum(expected.non_finite)
    norms = ((actual.rms or 0.0) * math.sqrt(finite), (expected.rms or 0.0) * math.sqrt(finite))
    distance = float(np.linalg.norm(left - right))
    # From the distance, not from the sketches' own product: the difference of two nearly equal vectors is small, so an
    # error of 9 % in it leaves the cosine right where the product's would not.
    product = (norms[0] ** 2 + norms[1] ** 2 - distance**2) / 2
    return error_of(distance, norms, product, max_abs=None, identical=False)


def same_values(actual: Record, expected: Record) -> bool:
    """Whether two records tell of the same values: by digest where both have one, else by all that they hold."""
    if actual.digest is not None and expected.digest is not None and actual.dtype == expected.dtype:
        return actual.digest == expected.digest and actual.shape == expected.shape
    return _content(actual) == _content(expected)


def _content(record: Record) -> tuple[Any, ...]:
    statistics = (record.mean, record.std, record.min, record.max, record.absmean, record.rms)
    return record.shape, statistics, record.non_finite, record.sample, record.sketch


def _projection(record: Record) -> npt.NDArray[np.float64]:
    return record.projection().astype(np.float64)
