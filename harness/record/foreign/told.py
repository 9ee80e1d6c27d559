"""Statistics as other tools write them, turned into those of our records: population moments over finite elements."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.statistics import other_statistic, summarise

# Statistics that are computed in fp32 are off by the rounding of a long sum.
SUMMED = 1e-6
# More elements are in no tensor.
MOST = 1 << 48
# Beyond this, a derived statistic is off by so much more than those it is derived from that it is left out.
_MOST_GROWTH = 1.5
# Statistics that were summed in another way are off by less.
_SUMS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a source tells of a tensor that it does not hold: fields of a record."""

    shape: list[int] | None = None
    dtype: str | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    absmean: float | None = None
    rms: float | None = None
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    resolution: float = 0.0
    digest: str | None = None


def number(value: object) -> float | None:
    """A statistic as a file holds it; None where it is none, such as null or the text of an error."""
    try:
        return float(value) if isinstance(value, bool | int | float) else None
    except OverflowError:
        return None


def sizes(value: object) -> list[int] | None:
    """A shape as a file holds it; None where it is none."""
    if not isinstance(value, list) or not all(isinstance(size, int) and 0 <= size < MOST for size in value):
        return None
    return [int(size) for size in value] if math.prod(value) < MOST else None


def rounding(dtype: str | None) -> float:
    """How far a statistic may be off that was computed and rounded in this dtype, relative to its tensor."""
    known = getattr(torch, dtype or "", None)
    is_float = isinstance(known, torch.dtype) and known.is_floating_point
    return max(SUMMED, torch.finfo(known).eps / 2) if isinstance(known, torch.dtype) and is_float else SUMMED


def told(
    *,
    shape: list[int] | None,
    dtype: str | None,
    resolution: float,
    mean: float | None = None,
    total: float | None = None,
    sample_std: float | None = None,
    norm: float | None = None,
    low: float | None = None,
    high: float | None = None,
    absmean: float | None = None,
    digest: str | None = None,
) -> Told:
    """Statistics over all elements, in a record's terms.

    `total` is the sum, `sample_std` divides by one less than the number of elements, `norm` is the L2 norm. What needs
    the number of elements is left out where the shape is not known.
    """
    dtype = None if dtype is None else dtype.removeprefix("torch.")
    count = None if shape is None else math.prod(shape)
    if count == 0:
        return Told(shape=shape, dtype=dtype, digest=digest)
    nan, posinf, neginf = _special(mean if mean is not None else total, low, high, absmean)
    mean, total, sample_std, norm, low, high, absmean = map(
        _finite, (mean, total, sample_std, norm, low, high, absmean)
    )
    std = rms = None
    growth = 1.0
    if mean is None and total is not None and count is not None:
        mean = total / count
    if count == 1 and mean is not None:
        std = 0.0
    elif sample_std is not None and count is not None:
        std = sample_std * math.sqrt((count - 1) / count)
    if norm is not None and count is not None:
        rms = norm / math.sqrt(count)
    elif mean is not None and std is not None:
        rms = math.hypot(mean, std)
        growth = max(1.0, (abs(mean) * rms + std**2) / rms**2) if rms else 1.0
    if std is None and rms is not None and mean is not None:
        std, growth = _spread(rms, mean)
    return Told(
        shape=shape,
        dtype=dtype,
        mean=mean,
        std=std,
        min=low,
        max=high,
        absmean=absmean,
        rms=rms,
        nan=nan,
        posinf=posinf,
        neginf=neginf,
        resolution=resolution * growth,
        digest=digest,
    )


def as_told(tensor: Tensor, told: Told, path: Path) -> Tensor:
    """The tensor in a file. Raises UserError where what stands beside it tells of another one."""
    unlike = None
    if told.shape is not None and told.shape != list(tensor.shape):
        unlike = f"shape {list(tensor.shape)}, not {told.shape}"
    elif told.dtype is not None and told.dtype != str(tensor.dtype).removeprefix("torch."):
        unlike = f"{tensor.dtype}, not {told.dtype}"
    elif not tensor.is_complex():
        unlike = other_statistic(told, summarise(tensor), near=told.resolution + _SUMS)
    if unlike is not None:
        raise UserError(
            f"{path}: is not the tensor that is told of beside it",
            found=unlike,
            expected="a file and statistics of one pass",
            do="write both again, into a new folder; one of them is of another run",
        )
    return tensor


def _spread(rms: float, mean: float) -> tuple[float | None, float]:
    """(std, by how much its error is larger than theirs) from two moments; none where they cancel."""
    variance = rms**2 - mean**2
    if variance <= 0:
        return None, 1.0
    std = math.sqrt(variance)
    growth = (rms**2 + mean**2) / (std * rms)
    return (std, growth) if growth <= _MOST_GROWTH else (None, 1.0)


def _special(mean: float | None, low: float | None, high: float | None, absmean: float | None) -> tuple[int, int, int]:
    """Whether there are NaN, +inf and -inf, by what statistics over all elements became. Not how many."""
    if low is not None and high is not None:
        # NaN in a sum is that of an element, unless infinities of both signs cancel; whatever the extremes are of.
        cancels = low == -math.inf and high == math.inf
        of_sums = (absmean, None if cancels else mean)
        nan = any(value is not None and math.isnan(value) for value in (low, high, *of_sums))
        return int(nan), int(high == math.inf), int(low == -math.inf)
    if absmean is not None and math.isnan(absmean):
        return 1, 0, 0
    if mean is None or math.isfinite(mean):
        return 0, 0, 0
    if math.isnan(mean):
        # Infinities of both signs cancel to NaN; NaN alone would be one in every mean.
        return (0, 1, 1) if absmean == math.inf else (1, 0, 0)
    return 0, int(mean > 0), int(mean < 0)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
