"""Statistics and sketch of one tensor, in one sweep over chunks.

Chunks of CHUNK elements are reduced in fp32 and combined in fp64. A chunk is small enough that torch reduces it on one
thread, so the numbers are the same for any thread count, and a few of them stay in the cache while all their numbers
are taken. Everything remains on the tensor's device as one small vector (`measure`); the vectors of many tensors leave
it in one transfer (`Summary.unpack`).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from harness.records import SAMPLES, SKETCH_SEED, SKETCH_SIZE

CHUNK = SKETCH_SIZE * 537  # 32757 elements: below torch's grain for splitting a reduction over threads
# Each chunk reads the drawn signs from this much further on, which moves every sign to another of the k buckets.
_SHIFT = 33
_ROWS_AT_ONCE = 8  # 1 MiB of fp32
# Where all magnitudes lie between these, no square or sum of a chunk leaves fp32.
_SMALL, _LARGE = 1e-12, 1e12
# What a chunk is reduced to, in this order.
_COLUMNS = ("count", "sum", "absolute", "deviation", "low", "high", "nan", "posinf", "neginf")


@dataclass(frozen=True)
class Summary:
    """What a record says of a tensor's values. Statistics are over the finite elements; None where there are none."""

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    absmean: float | None
    rms: float | None
    nan: int
    posinf: int
    neginf: int
    sample: list[float | None]
    sketch: bytes

    @classmethod
    def unpack(cls, measured: Tensor) -> Self:
        """The summary that `measure` packed; `measured` [9 + SAMPLES + SKETCH_SIZE] fp64 lies on the CPU."""
        scalars, sample = measured[: len(_COLUMNS)].tolist(), measured[len(_COLUMNS) :][:SAMPLES].tolist()
        count, total, absolute, deviation, low, high, nan, posinf, neginf = scalars
        mean = total / count if count else 0.0
        return cls(
            mean=mean if count else None,
            std=(deviation / count) ** 0.5 if count else None,
            min=low if count else None,
            max=high if count else None,
            absmean=absolute / count if count else None,
            rms=(deviation / count + mean**2) ** 0.5 if count else None,
            nan=int(nan),
            posinf=int(posinf),
            neginf=int(neginf),
            sample=[value if math.isfinite(value) else None for value in sample],
            # Infinite, without a warning, where a projection of huge values leaves fp32.
            sketch=measured[len(_COLUMNS) + SAMPLES :].float().numpy().astype("<f4").tobytes(),
        )


def summarise(tensor: Tensor) -> Summary:
    """The summary of one tensor, of any shape and dtype, on any device."""
    return Summary.unpack(measure(tensor).cpu())


def measure(tensor: Tensor) -> Tensor:
    """[9 + SAMPLES + SKETCH_SIZE] fp64 on the tensor's device: see `Summary.unpack`. Values are read as fp32.

    On an accelerator nothing here waits for the device.
    """
    flat = tensor.detach().reshape(-1)
    size = flat.numel()
    if not size:
        nothing = flat.new_zeros(len(_COLUMNS) + SAMPLES + SKETCH_SIZE, dtype=torch.float64)
        nothing[len(_COLUMNS) :][:SAMPLES] = math.nan
        return nothing
    whole, rest = divmod(size, CHUNK)
    within, across = _signs(whole + bool(rest), flat.device)
    rows = flat[: whole * CHUNK].view(whole, CHUNK)
    blocks: list[tuple[Tensor, Tensor]] = []
    if whole:
        by_rows = (torch.split(each, _ROWS_AT_ONCE) for each in (rows, within[:whole]))
        blocks += zip(*by_rows, strict=True)
    if rest:
        blocks.append((flat[whole * CHUNK :][None], within[whole:, :rest]))
    reduced, sketches = zip(*(_reduce(block.float(), signs) for block, signs in blocks), strict=True)
    sketch = (torch.cat(sketches) * across[:, None]).sum(0)
    sample = flat[_sample_positions(size, flat.device)].double()
    return torch.cat([_combine(torch.cat(reduced)), sample, sketch])


@dataclass(frozen=True)
class _Tame:
    """Chunks [c, width] fp32 whose squares and sums stay within fp32: what `values` times `scale` [c, 1] stands for."""

    values: Tensor
    scale: Tensor
    finite: Tensor


def _reduce(rows: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Each chunk of `rows` [c, width] fp32 reduced to _COLUMNS [c, 9] and to its sketch [c, SKETCH_SIZE], both fp64."""
    low, high = rows.amin(1), rows.amax(1)
    if rows.device.type == "cpu" and _is_plain(low, high):
        count = torch.full_like(low, rows.shape[1], dtype=torch.float64)
        none = torch.zeros_like(count)
        moments, sketch = _moments(rows, count, within, finite=None)
        return torch.stack([count, *moments, low.double(), high.double(), none, none, none], dim=1), sketch
    tame = _tame(rows)
    count = tame.finite.sum(1).double()
    scale = tame.scale[:, 0].double()
    (total, absolute, deviation), sketch = _moments(tame.values, count, within, finite=tame.finite)
    low = torch.where(tame.finite, rows, torch.inf).amin(1)
    high = torch.where(tame.finite, rows, -torch.inf).amax(1)
    special = (kind.sum(1).double() for kind in (rows.isnan(), rows.isposinf(), rows.isneginf()))
    moments = (total * scale, absolute * scale, deviation * scale.square())
    return torch.stack([count, *moments, low.double(), high.double(), *special], dim=1), sketch * scale[:, None]


def _is_plain(low: Tensor, high: Tensor) -> bool:
    """Whether the chunks can be reduced as they are. On a CPU looking is free; an accelerator would be waited for."""
    magnitude = torch.maximum(low.abs(), high.abs())
    return bool(((magnitude == 0) | ((magnitude > _SMALL) & (magnitude < _LARGE))).all())


def _tame(rows: Tensor) -> _Tame:
    finite = torch.isfinite(rows)
    values = rows.masked_fill(~finite, 0.0)
    # Dividing by a power of two is exact. The largest values have the exponent 128, whose power is no fp32 any more.
    scale = torch.exp2(torch.frexp(values.abs().amax(1, keepdim=True))[1].clamp(max=127).float())
    return _Tame(values / scale, scale, finite)


def _moments(
    values: Tensor, count: Tensor, within: Tensor, *, finite: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """([sum, sum of magnitudes, squared deviations from the chunk's mean], sketch) of each chunk, fp64."""
    at_least_one = count.clamp(min=1)
    mean = (values.sum(1).double() / at_least_one).float()
    deviations = values - mean[:, None]
    if finite is not None:
        deviations *= finite
    # The deviations' own mean corrects the rounding of `mean`, in the sum as in the squares.
    shift = deviations.sum(1).double()
    squares = deviations.square_().sum(1).double() - shift.square() / at_least_one
    moments = (mean.double() * count + shift, values.abs().sum(1).double(), squares.clamp(min=0))
    return moments, _sketch(values, within)


def _sketch(values: Tensor, within: Tensor) -> Tensor:
    """Signed random projection [c, SKETCH_SIZE] fp64 of each chunk: element i goes to bucket i mod k, sign drawn.

    The sign of an element is that of its place (see `_signs`) times that of its chunk, so E||sketch||^2 = ||x||^2, and
    chunks that are alike, as in a constant offset, do not cancel. The map is linear: the difference of two sketches is
    the sketch of the difference.
    """
    signed = values * within
    padded = torch.nn.functional.pad(signed, (0, -values.shape[1] % SKETCH_SIZE))
    return padded.view(values.shape[0], -1, SKETCH_SIZE).sum(1).double()


def _combine(chunks: Tensor) -> Tensor:
    """_COLUMNS [9] of the whole tensor from those of its chunks [c, 9]; deviations by the parallel-variance formula."""
    count, total, absolute, deviation, low, high, *special = chunks.unbind(1)
    mean = total.sum() / count.sum().clamp(min=1)
    between = (count * (total / count.clamp(min=1) - mean).square()).sum()
    sums = [count.sum(), total.sum(), absolute.sum(), deviation.sum() + between]
    return torch.stack([*sums, low.amin(), high.amax(), *(kind.sum() for kind in special)])


@lru_cache(maxsize=64)
def _signs(chunks: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Signs within every chunk [chunks, CHUNK] fp32, one table that they all share, and of each chunk [chunks] fp64.

    A longer tensor starts as a shorter one.
    """
    length = max(chunks, 1024)
    draw = torch.Generator().manual_seed(SKETCH_SEED)
    within = torch.randint(0, 2, (CHUNK + _SHIFT * length,), generator=draw).float() * 2 - 1
    draw.manual_seed(SKETCH_SEED + 1)
    across = torch.randint(0, 2, (length,), generator=draw).double()[:chunks] * 2 - 1
    return within.to(device).as_strided((chunks, CHUNK), (_SHIFT, 1)), across.to(device)


@lru_cache(maxsize=1024)
def _sample_positions(size: int, device: torch.device) -> Tensor:
    """SAMPLES evenly spread positions of a flat tensor, first and last included."""
    return torch.linspace(0, size - 1, SAMPLES, dtype=torch.float64).round().long().to(device)
