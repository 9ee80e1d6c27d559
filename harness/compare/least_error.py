"""What two records prove by their statistics, where one of them has no sketch: a divergence perhaps, parity never.

A permutation keeps every statistic, and so may a large error: at width 2560 one of 60 % moves a norm by 0.03 %.
"""

import math
from collections.abc import Iterator

from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.record.records import Record

UNLIKE_DIGEST = "equal digests, and other statistics: a record is not of its own tensor"
# Of two tensors, none of these differs by more than rms(actual - expected) ...
_MEANS = ("rms", "std", "mean", "absmean")
# ... and none of these by more than its norm.
_EXTREMES = ("min", "max")
# Beyond what they may be off by, statistics of the same values are no further apart.
_CONTRADICTS = 1e-4


def least_error(actual: Record, expected: Record) -> Error:
    """The largest lower bound of the relative error that two records' statistics prove.

    Of the relative L2 error where the expected rms is known, else of the relative L1 error, else of the largest error
    over the largest magnitude. `rel_l2` is NaN where they share no statistic.
    """
    if None not in (actual.shape, expected.shape) and actual.shape != expected.shape:
        return no_distance(f"shape {actual.shape}, not {expected.shape}")
    if any(actual.non_finite) != any(expected.non_finite):
        side = "candidate" if any(actual.non_finite) else "reference"
        return no_distance(f"NaN or infinity on the {side}'s side alone")
    proven = max(_bounds(actual, expected), default=math.nan)
    of_one_type = None in (actual.dtype, expected.dtype) or actual.dtype == expected.dtype
    if actual.digest is not None and actual.digest == expected.digest and of_one_type:
        if proven > _CONTRADICTS:
            return no_distance(UNLIKE_DIGEST)
        return Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)
    ratio = actual.rms / expected.rms if actual.rms is not None and expected.rms else None
    note = "no statistic that both sides have" if math.isnan(proven) else None
    shape = actual.shape if expected.shape is None else expected.shape
    elements = 1 if shape is None else max(1, math.prod(shape))
    return Error(identical=False, rel_l2=proven, norm_ratio=ratio, by_statistics_of=elements, note=note)


def _bounds(actual: Record, expected: Record) -> Iterator[float]:
    """Lower bounds of one relative error, each by one statistic."""
    if expected.rms is not None:
        yield from (_relative(apart, expected.rms) for apart in _apart(actual, expected, _MEANS))
        shape = actual.shape if expected.shape is None else expected.shape
        if shape is not None:
            norm = expected.rms * math.sqrt(math.prod(shape))
            yield from (_relative(apart, norm) for apart in _apart(actual, expected, _EXTREMES))
    elif expected.absmean is not None and actual.absmean is not None:
        yield from (_relative(apart, expected.absmean) for apart in _apart(actual, expected, ("absmean",)))
    else:
        largest = max((abs(value) for value in (expected.min, expected.max) if value is not None), default=0.0)
        yield from (_relative(apart, largest) for apart in _apart(actual, expected, _EXTREMES))


def _apart(actual: Record, expected: Record, names: tuple[str, ...]) -> Iterator[float]:
    """By how much each statistic that both sides have differs, beyond what the statistics may be off by."""
    for name in names:
        found, wanted = getattr(actual, name), getattr(expected, name)
        if found is not None and wanted is not None:
            off = _resolution(actual, found) + _resolution(expected, wanted)
            yield max(0.0, abs(found - wanted) - off)


def _resolution(record: Record, value: float) -> float:
    """By how much a statistic may be off: a mean is summed of values that may be far larger than it."""
    return record.resolution * max(abs(value), record.rms or record.absmean or 0.0)


def _relative(apart: float, to: float) -> float:
    if to:
        return apart / to
    return math.inf if apart else 0.0
