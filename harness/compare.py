"""How far one side's tensor is from the other's at a site: from full tensors, or from two records alone."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.records import Record


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


def tensor_error(actual: Tensor, expected: Tensor) -> Error:
    """The error between two full tensors, computed in fp64 on the expected tensor's device."""
    if actual.shape != expected.shape:
        return _no_distance(f"shape {list(actual.shape)}, not {list(expected.shape)}")
    actual = actual.to(expected.device)
    if _same_bits(actual, expected):
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0, max_abs=0.0)
    left, right = actual.double().flatten(), expected.double().flatten()
    # Where both sides have the same special value there is nothing to measure; where one has, no distance exists.
    special = ~(torch.isfinite(left) & torch.isfinite(right))
    alike = (left == right) | (left.isnan() & right.isnan())
    if bool((special & ~alike).any()):
        return _no_distance(f"{int((special & ~alike).sum())} elements are NaN or infinite on one side only")
    left, right = left.masked_fill(special, 0.0), right.masked_fill(special, 0.0)
    difference = left - right
    distance, norms = float(difference.norm()), (float(left.norm()), float(right.norm()))
    max_abs = float(difference.abs().max()) if difference.numel() else 0.0
    return _error(distance, norms, float(left @ right), max_abs=max_abs, identical=False)


def _same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether every bit is the same; between dtypes every value. As with records: NaN is NaN, and 0 is not -0."""
    if actual.dtype != expected.dtype:
        return torch.equal(actual.double(), expected.double())
    return torch.equal(actual.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


def record_error(actual: Record, expected: Record) -> Error:
    """The error that two records tell of.

    Distance and product come from the sketches, whose estimates of a norm are good to 9 % (one standard deviation);
    the norms themselves from rms and shape.
    """
    if actual.shape != expected.shape:
        return _no_distance(f"shape {actual.shape}, not {expected.shape}")
    if actual.non_finite != expected.non_finite:
        return _no_distance(f"NaN, +inf, -inf counts {actual.non_finite}, not {expected.non_finite}")
    if same_values(actual, expected):
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)
    left, right = _projection(actual), _projection(expected)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return _no_distance("the values are too large for a sketch")
    finite = math.prod(expected.shape) - sum(expected.non_finite)
    norms = ((actual.rms or 0.0) * math.sqrt(finite), (expected.rms or 0.0) * math.sqrt(finite))
    distance = float(np.linalg.norm(left - right))
    # From the distance, not from the sketches' own product: the difference of two nearly equal vectors is small, so an
    # error of 9 % in it leaves the cosine right where the product's would not.
    product = (norms[0] ** 2 + norms[1] ** 2 - distance**2) / 2
    return _error(distance, norms, product, max_abs=None, identical=False)


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


def _error(
    distance: float, norms: tuple[float, float], product: float, *, max_abs: float | None, identical: bool
) -> Error:
    actual, expected = norms
    relative = distance / expected if expected else (math.inf if distance else 0.0)
    cosine = max(-1.0, min(1.0, product / (actual * expected))) if actual and expected else None
    return Error(identical, relative, cosine, actual / expected if expected else None, max_abs)


def _no_distance(note: str) -> Error:
    return Error(identical=False, rel_l2=math.inf, note=note)
