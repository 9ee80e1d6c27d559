"""The error at a site from both sides' records alone: without tensors, and without torch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.compare.columns import Columns, Numbers
from waypoint_parity.harness.compare.error import Error, error_of, no_distance
from waypoint_parity.harness.compare.least_error import UNLIKE_DIGEST, least_error
from waypoint_parity.harness.record.records import Record, is_whole
from waypoint_parity.harness.run.keys import is_input

# How far sums of the same values in another order are apart at the most, relative to them.
_SUMMED = 1e-6
# The least normal number of fp32. Of fp64 values below it records say next to nothing.
_LEAST_NORMAL = 2.0**-126
# Further apart than that are no sums of the same values, in whatever precision they are summed.
_CONTRADICTS = 1e-3


def record_error(actual: Record, expected: Record) -> Error:
    """The error that two records tell of, and what their tensors are: see _told_error."""
    types, dtypes = (actual.dtype, expected.dtype), None
    if actual.dtype is not None and expected.dtype is not None and actual.dtype != expected.dtype:
        dtypes = actual.dtype, expected.dtype
    return replace(
        _told_error(actual, expected),
        whole=any(map(is_whole, types)),
        empty=all(record.shape is not None and not math.prod(record.shape) for record in (actual, expected)),
        dtypes=dtypes,
    )


def _told_error(actual: Record, expected: Record) -> Error:
    """The error that two records tell of.

    Distance and product come from the sketches, whose estimates of a norm are good to 9 % (one standard deviation);
    the norms themselves from rms and shape. There is no distance between unlike values of which some are not finite.
    Where one of the two has no sketch: see least_error.
    """
    if not (actual.sketch and expected.sketch) or actual.shape is None or expected.shape is None:
        return least_error(actual, expected)
    if actual.shape != expected.shape:
        return no_distance(f"shape {actual.shape}, not {expected.shape}")
    if actual.non_finite != expected.non_finite:
        return no_distance(f"NaN, +inf, -inf counts {actual.non_finite}, not {expected.non_finite}")
    sketches = actual.projection()[None], expected.projection()[None]
    rms = np.array([actual.rms or 0.0]), np.array([expected.rms or 0.0])
    if same_values(actual, expected):
        return _of_same_values(actual, expected, sketches, rms)
    distance = float(_distances(*sketches)[0])
    if (reason := _incommensurable(actual, expected, distance)) is not None:
        return no_distance(reason)
    root = math.sqrt(math.prod(expected.shape))
    norms = (float(rms[0][0]) * root, float(rms[1][0]) * root)
    # No two vectors are nearer than their norms.
    distance = max(distance, abs(norms[0] - norms[1]))
    exactly = is_input(expected.site) or is_whole(expected.dtype)
    if exactly and _same_but_for_sums(actual, expected) and distance <= _SUMMED * norms[1]:
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)
    # From the distance, not from the sketches' own product: the difference of two nearly equal vectors is small, so an
    # error of 9 % in it leaves the cosine right where the product's would not.
    product = (norms[0] ** 2 + norms[1] ** 2 - distance**2) / 2
    error = error_of(distance, norms, product, max_abs=None, identical=False)
    if math.prod(expected.shape) == 1 and actual.mean is not None and expected.mean is not None:
        return replace(error, values=(actual.mean, expected.mean))
    return error


def _of_same_values(
    actual: Record,
    expected: Record,
    sketches: Sequence[npt.NDArray[np.float32]],
    rms: Sequence[Numbers],
) -> Error:
    """The error of two records that tell of the same values, which need not be true."""
    if _contradict(sketches, rms)[0]:
        return no_distance(UNLIKE_DIGEST)
    if _is_unproven(actual, expected):
        return least_error(actual, expected)
    return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)


def _incommensurable(actual: Record, expected: Record, distance: float) -> str | None:
    """Why two records of other values tell no distance, though their sketches are so far apart."""
    if any(expected.non_finite):
        # A sketch leaves them out, so that one which moved need not show in it.
        counts = f"NaN, +inf, -inf counts {expected.non_finite} on both sides"
        return f"{counts}, and other values; no record tells whether they are in the same places"
    if not math.isfinite(distance):
        return "the values are too large for a sketch"
    if _is_too_small(actual, expected):
        return "other values, all too small for a record: it reads fp64 as fp32"
    return None


def same_values(actual: Record, expected: Record) -> bool:
    """Whether two records tell of the same values: by digest where both have one, else by all that they hold."""
    if actual.digest is not None and expected.digest is not None and actual.dtype == expected.dtype:
        return actual.digest == expected.digest and actual.shape == expected.shape
    return _content(actual) == _content(expected)


def _is_unproven(actual: Record, expected: Record) -> bool:
    """Whether two records that say the same may be of other values.

    Without digests they tell neither where elements are that are not finite, nor fp64 values that fp32 does not hold.
    """
    if None not in (actual.digest, expected.digest) and actual.dtype == expected.dtype:
        return False
    return any(expected.non_finite) or _is_too_small(actual, expected)


def _is_too_small(actual: Record, expected: Record) -> bool:
    """Whether values are fp64 that are not 0, and are next to 0 in fp32."""
    sides = (actual, expected)
    if "float64" not in (actual.dtype, expected.dtype) or any((side.rms or 0.0) >= _LEAST_NORMAL for side in sides):
        return False
    return any(side.rms or any(side.sample) for side in sides)


def _same_but_for_sums(actual: Record, expected: Record) -> bool:
    """Whether no digest tells two records apart, nor anything that is not summed: other engines sum in other orders."""
    known = None not in (actual.digest, expected.digest) and actual.dtype == expected.dtype
    return not known and actual.non_finite == expected.non_finite and _elements(actual) == _elements(expected)


def _elements(record: Record) -> list[float | None]:
    """The elements that a record has, as fp32: other engines may write them with more or fewer digits."""
    values = [record.min, record.max, *record.sample]
    with np.errstate(over="ignore"):
        return [None if value is None else float(np.float32(value)) for value in values]


def _content(record: Record) -> tuple[Any, ...]:
    statistics = (record.mean, record.std, record.min, record.max, record.absmean, record.rms)
    return record.shape, statistics, record.non_finite, record.sample, record.sketch


class Errors(NamedTuple):
    """What a judgement needs of many errors [n]: fields and properties of `Error`."""

    identical: npt.NDArray[np.bool_]
    rel_l2: Numbers
    log_norm: Numbers
    # NaN where not known.
    exact: Numbers
    local: Numbers
    grown: Numbers
    hollow: npt.NDArray[np.bool_]
    by_statistics_of: Numbers
    whole: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]
    # Whether the types of the two differ.
    retyped: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, errors: Sequence[Error]) -> Self:
        """The same of errors that are there one by one."""
        flags, numbers = ("identical", "hollow", "whole", "empty"), ("rel_l2", "log_norm", "exact", "local", "grown")
        columns = {name: np.array([getattr(error, name) for error in errors]) for name in flags}
        columns["retyped"] = np.array([error.dtypes is not None for error in errors], bool)
        columns |= {name: np.array([getattr(e, name) for e in errors], np.float64) for name in numbers}
        return cls(**columns, by_statistics_of=np.array([error.by_statistics_of for error in errors], np.float64))

    @property
    def distance(self) -> Numbers:
        """`rel_l2` as numbers that can be ordered: infinite where there is none."""
        return np.where(np.isnan(self.rel_l2), math.inf, self.rel_l2)


def record_errors(actual: Columns, expected: Columns) -> Errors:
    """`record_error` of many pairs [n] at once."""
    identical = np.array(actual.digests == expected.digests, bool)
    distances = _distances(actual.sketches, expected.sketches)
    found, norms = actual.rms, expected.rms
    with np.errstate(divide="ignore", invalid="ignore"):
        # No two vectors are nearer than their norms.
        roots = np.sqrt(expected.elements)
        distances = np.where(identical, distances, np.maximum(distances, np.abs(found - norms) * roots))
        rel_l2 = np.where(identical | (distances == 0), 0.0, distances / (norms * roots))
        log_norm = np.where(identical | (norms == 0), 0.0, np.abs(np.log(found / norms)))
    # Of unlike shapes or counts, not finite, without digests, too large for a sketch: no distance has a reason.
    unusual = ~np.isfinite(distances) | (actual.alike != expected.alike) | (actual.special != expected.special).any(1)
    unusual |= ~identical & expected.special.any(1)
    unusual |= ~(actual.digests.astype(bool) & expected.digests.astype(bool))
    # Of values too small for fp32, perhaps.
    unusual |= ~identical & (np.maximum(found, norms) < _LEAST_NORMAL)
    unusual |= identical & _contradict((actual.sketches, expected.sketches), (found, norms))
    by_statistics_of, retyped = np.zeros(len(identical)), np.zeros(len(identical), bool)
    for index in np.flatnonzero(unusual).tolist():
        error = record_error(actual.record(index), expected.record(index))
        identical[index], rel_l2[index], log_norm[index] = error.identical, error.rel_l2, error.log_norm
        by_statistics_of[index], retyped[index] = error.by_statistics_of, error.dtypes is not None
    unknown = np.full(len(identical), math.nan)
    counted = np.minimum(actual.special.sum(1), expected.special.sum(1))
    hollow = (counted >= expected.elements) & (expected.elements > 0)
    # What is not finite in fp32 may be in fp64.
    for index in np.flatnonzero(hollow).tolist():
        records = actual.record(index), expected.record(index)
        hollow[index] = not any(_is_finite_in_fp64(record) for record in records)
    return Errors(
        identical,
        rel_l2,
        log_norm,
        exact=unknown,
        local=unknown,
        grown=unknown,
        hollow=hollow,
        by_statistics_of=by_statistics_of,
        whole=actual.whole | expected.whole,
        empty=(actual.elements == 0) & (expected.elements == 0),
        retyped=retyped,
    )


def _is_finite_in_fp64(record: Record) -> bool:
    """Whether an element is finite that counts as infinite, as fp32 reads it."""
    return record.dtype == "float64" and any(value is not None for value in record.sample)


def _contradict(sketches: Sequence[npt.NDArray[np.float32]], rms: Sequence[Numbers]) -> npt.NDArray[np.bool_]:
    """Whether sketches and rms of both sides [n] cannot be of the same values."""
    with np.errstate(invalid="ignore"):
        norms = np.sqrt(np.einsum("nk,nk->n", sketches[1], sketches[1], dtype=np.float64))
        apart = _distances(*sketches) > _CONTRADICTS * norms
        return np.array(apart | (np.abs(rms[0] - rms[1]) > _CONTRADICTS * np.abs(rms[1])), bool)


def _distances(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Numbers:
    """The distance of each two sketches [n,SKETCH_SIZE]."""
    with np.errstate(invalid="ignore"):
        difference = np.subtract(left, right, dtype=np.float64)
    squares: Numbers = np.einsum("nk,nk->n", difference, difference)
    return np.sqrt(squares)
