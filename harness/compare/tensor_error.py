"""The error at a site from both sides' full tensors: exact."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from waypoint_parity.harness.compare.error import Error, error_of, no_distance
from waypoint_parity.harness.run.digest import flat_bytes
from waypoint_parity.harness.run.taps import Observation

# The squares of these, and a sum of many, are well within fp64.
_SMALL, _LARGE = 1e-100, 1e100
# What torch.testing.assert_close takes where nothing is given: (rtol, atol); of any other dtype nothing.
CLOSE = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
}
EXACTLY = (0.0, 0.0)


def tensor_error(actual: Tensor, expected: Tensor) -> Error:
    """The error between two full tensors, computed in fp64 on the expected tensor's device."""
    whole = not all(tensor.is_floating_point() or tensor.is_complex() for tensor in (actual, expected))
    empty = not (actual.numel() or expected.numel())
    found, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (actual, expected))
    dtypes = None if found == wanted else (found, wanted)
    return replace(_error(actual, expected), whole=whole, empty=empty, dtypes=dtypes)


def _error(actual: Tensor, expected: Tensor) -> Error:
    if actual.shape != expected.shape:
        return no_distance(f"shape {list(actual.shape)}, not {list(expected.shape)}")
    actual = actual.to(expected.device)
    if _same_bits(actual, expected):
        hollow = _is_hollow(expected)
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0, max_abs=0.0, hollow=hollow)
    left, right = actual.double().flatten(), expected.double().flatten()
    # Where both sides have the same special value there is nothing to measure; where one has, no distance exists.
    special = ~(torch.isfinite(left) & torch.isfinite(right))
    alike = (left == right) | (left.isnan() & right.isnan())
    if bool((special & ~alike).any()):
        return no_distance(f"{int((special & ~alike).sum())} elements are NaN or infinite on one side only")
    left, right = left.masked_fill(special, 0.0), right.masked_fill(special, 0.0)
    values = (float(left), float(right)) if left.numel() == 1 else None
    scale = _scale(left, right)
    left, right = left / scale, right / scale
    difference = left - right
    distance, norms = float(difference.norm()), (float(left.norm()), float(right.norm()))
    max_abs = float(difference.abs().max()) * scale if difference.numel() else 0.0
    error = error_of(distance, norms, float(left @ right), max_abs=max_abs, identical=False)
    if special.numel() and bool(special.all()):
        error = replace(error, hollow=True)
    return replace(error, values=values)


def _scale(left: Tensor, right: Tensor) -> float:
    """A power of two by which both can be divided where their squares leave fp64; else 1."""
    largest = max((float(each.abs().max()) for each in (left, right) if each.numel()), default=0.0)
    if not largest or _SMALL < largest < _LARGE:
        return 1.0
    return 2.0 ** min(math.frexp(largest)[1], 1023)


def _is_hollow(tensor: Tensor) -> bool:
    """Whether a tensor has values, and none of them is finite."""
    if not tensor.is_floating_point() or not tensor.numel() or bool(tensor[(0,) * tensor.dim()].double().isfinite()):
        return False
    return not bool(tensor.double().isfinite().any())


def exact_distance(actual: Observation, expected: Observation) -> float | None:
    """The relative L2 distance of what two sides would have shown without any rounding; None where it is not known.

    Relative to the larger of the exact norm and that of the values as computed: nothing is left of either where terms
    cancel.
    """
    if actual.exact is None or expected.exact is None or actual.exact.shape != expected.exact.shape:
        return None
    left, right, computed = actual.exact, expected.exact.to(actual.exact.device), expected.tensor
    distance = float((left - right).norm())
    if not math.isfinite(distance):
        special = ~(left.isfinite() & right.isfinite())
        if not bool((~special | (left == right) | (left.isnan() & right.isnan())).all()):
            return math.inf
        left, right = left.masked_fill(special, 0.0), right.masked_fill(special, 0.0)
        computed = computed.masked_fill(~computed.isfinite(), 0.0)
        distance = float((left - right).norm())
    if not distance:
        return 0.0
    size = max(float(right.norm()), float(torch.linalg.vector_norm(computed, dtype=torch.float64)))
    return distance / size if size else math.inf


def rounded_off(seen: Observation) -> float:
    """The L2 distance of what a side shows from what it would have shown without any rounding; 0 where unknown."""
    if seen.exact is None:
        return 0.0
    distance = float((seen.tensor.double() - seen.exact).norm())
    return distance if math.isfinite(distance) else 0.0


def _same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether every bit is the same; between dtypes every value. As with records: NaN is NaN, and 0 is not -0."""
    if actual.dtype != expected.dtype:
        return torch.equal(actual.double(), expected.double())
    left, right = map(flat_bytes, (actual, expected))
    return torch.equal(left, right)
