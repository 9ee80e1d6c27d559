"""The error at a site from both sides' records alone: without tensors, and without torch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter, eq, ne
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from harness.distance import Error, error_of, no_distance
from harness.records import Record
from harness.rows import Row, projections

Numbers = npt.NDArray[np.float64]
_head = attrgetter("shape", "dtype", "nan", "posinf", "neginf")
_shape = attrgetter("shape")
_special = attrgetter("nan", "posinf", "neginf")
_digest = attrgetter("digest")


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
    distance = float(_distances(actual.projection()[None], expected.projection()[None])[0])
    if not math.isfinite(distance):
        return no_distance("the values are too large for a sketch")
    finite = max(0, math.prod(expected.shape) - sum(expected.non_finite))
    norms = ((actual.rms or 0.0) * math.sqrt(finite), (expected.rms or 0.0) * math.sqrt(finite))
    # From the distance, not from the sketches' own product: the difference of two nearly equal vectors is small, so an
    # error of 9 % in it leaves the cosine right where the product's would not.
    product = (norms[0] ** 2 + norms[1] ** 2 - distance**2) / 2
    error = error_of(distance, norms, product, max_abs=None, identical=False)
    if math.prod(expected.shape) == 1 and actual.mean is not None and expected.mean is not None:
        return replace(error, values=(actual.mean, expected.mean))
    return error


def same_values(actual: Record, expected: Record) -> bool:
    """Whether two records tell of the same values: by digest where both have one, else by all that they hold."""
    if actual.digest is not None and expected.digest is not None and actual.dtype == expected.dtype:
        return actual.digest == expected.digest and actual.shape == expected.shape
    return _content(actual) == _content(expected)


def _content(record: Record) -> tuple[Any, ...]:
    statistics = (record.mean, record.std, record.min, record.max, record.absmean, record.rms)
    return record.shape, statistics, record.non_finite, record.sample, record.sketch


class Errors(NamedTuple):
    """What a judgement needs of many errors [n]: fields and properties of `Error`."""

    identical: npt.NDArray[np.bool_]
    rel_l2: Numbers
    log_norm: Numbers

    @classmethod
    def of(cls, errors: Sequence[Error]) -> Self:
        """The same of errors that are there one by one."""
        columns = [(error.identical, error.rel_l2, error.log_norm) for error in errors]
        identical, rel_l2, log_norm = zip(*columns, strict=True)
        return cls(np.array(identical), np.array(rel_l2, np.float64), np.array(log_norm, np.float64))

    @property
    def distance(self) -> Numbers:
        """`rel_l2` as numbers that can be ordered: infinite where there is none."""
        return np.where(np.isnan(self.rel_l2), math.inf, self.rel_l2)


def row_errors(actual: list[Row], expected: list[Row]) -> Errors:
    """`record_error` of many pairs [n] at once."""
    digests = list(map(_digest, actual)), list(map(_digest, expected))
    identical = np.array(list(map(eq, *digests)), bool)
    distances = _distances(projections(actual), projections(expected))
    found, norms = _rms(actual), _rms(expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        rel_l2 = np.where(identical | (distances == 0), 0.0, distances / (norms * _roots(expected)))
        log_norm = np.where(identical | (norms == 0), 0.0, np.abs(np.log(found / norms)))
    # Of unlike shapes or counts, without digests, too large for a sketch: what tells no distance has a reason.
    unusual = ~np.isfinite(distances)
    heads, others = list(map(_head, actual)), list(map(_head, expected))
    if heads != others:
        unusual |= np.array(list(map(ne, heads, others)), bool)
    if None in digests[0] or None in digests[1]:
        unusual |= np.array([None in pair for pair in zip(*digests, strict=True)], bool)
    for index in np.flatnonzero(unusual):
        error = record_error(actual[index].record(), expected[index].record())
        identical[index], rel_l2[index], log_norm[index] = error.identical, error.rel_l2, error.log_norm
    return Errors(identical, rel_l2, log_norm)


def _distances(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Numbers:
    """The distance of each two sketches [n,SKETCH_SIZE]."""
    with np.errstate(invalid="ignore"):
        difference = np.subtract(left, right, dtype=np.float64)
    squares: Numbers = np.einsum("nk,nk->n", difference, difference)
    return np.sqrt(squares)


def _rms(rows: list[Row]) -> Numbers:
    return np.array([row.rms or 0.0 for row in rows])


def _roots(rows: list[Row]) -> Numbers:
    """The square root of how many finite elements each row tells of."""
    elements = np.fromiter(map(math.prod, map(_shape, rows)), np.float64, len(rows))
    special = list(map(_special, rows))
    if special != [(0, 0, 0)] * len(rows):
        elements -= np.array(special, np.float64).sum(1)
    return np.sqrt(np.maximum(elements, 0.0))
