"""Statistics and sketch of tensors, in one sweep over chunks.

Chunks of CHUNK elements are reduced in fp32 and combined in fp64. A chunk is small enough that torch reduces it on one
thread, so the numbers are the same for any thread count, and a few of them stay in the cache while all their numbers
are taken. Tensors of one chunk or less are reduced together with the others of their size in the pass: what they cost
is the calls, not the elements. Everything remains on the tensors' device until the pass is over.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from waypoint_parity.harness.record.records import SAMPLES, SKETCH_SEED, SKETCH_SIZE

CHUNK = SKETCH_SIZE * 537  # 32757 elements: below torch's grain for splitting a reduction over threads
# Each chunk reads the drawn signs from this much further on, which moves every sign to another of the k buckets.
_SHIFT = 33
_AT_ONCE = 16 * CHUNK  # elements: 2 MiB of fp32
# Where all magnitudes lie between these, no square or sum of a chunk leaves fp32.
_SMALL, _LARGE = 1e-12, 1e12
# What a chunk is reduced to, and a tensor after it. `mean` is a near one: `shift` is the sum of the deviations from it,
# `squares` that of their squares.
_COLUMNS = ("count", "mean", "shift", "squares", "absolute", "low", "high", "nan", "posinf", "neginf")
# What is measured of a tensor: the columns of all its chunks combined, the sample and the sketch.
_MEASURED = [len(_COLUMNS), SAMPLES, SKETCH_SIZE]


@dataclass(frozen=True)
class Statistics:
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
    def of(cls, columns: list[float], sample: list[float], sketch: bytes) -> Self:
        """The summary of a tensor from its _COLUMNS, sample and sketch."""
        count, near_mean, shift, squares, absolute, low, high, nan, posinf, neginf = columns
        off = shift / count if count else 0.0
        mean = near_mean + off
        variance = max(0.0, squares / count - off**2) if count else 0.0
        return cls(
            mean=mean if count else None,
            std=variance**0.5 if count else None,
            min=low if count else None,
            max=high if count else None,
            absmean=absolute / count if count else None,
            rms=(variance + mean**2) ** 0.5 if count else None,
            nan=int(nan),
            posinf=int(posinf),
            neginf=int(neginf),
            sample=[value if math.isfinite(value) else None for value in sample],
            sketch=sketch,
        )


class Measurements:
    """Takes the tensors that a pass shows and gives their summaries, in the same order, when it is over."""

    def __init__(self) -> None:
        self._count = 0
        self._measured: list[tuple[int, Tensor]] = []
        self._alike: defaultdict[tuple[int, torch.dtype, torch.device], list[tuple[int, Tensor]]] = defaultdict(list)

    def add(self, tensor: Tensor) -> None:
        """Take a tensor of any shape and dtype, on any device. It may be reused in place from now on."""
        if tensor.numel() <= CHUNK:
            kept = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
            self._alike[len(kept), kept.dtype, kept.device].append((self._count, kept))
        else:
            self._measured.append((self._count, measure(tensor)))
        self._count += 1

    def fetch(self) -> list[Statistics]:
        """The summaries of all that was added since the last fetch, in one transfer from each device."""
        for alike in self._alike.values():
            places, tensors = zip(*alike, strict=True)
            self._measured += zip(places, _measure_rows(torch.stack(tensors)), strict=True)
        summaries: dict[int, Statistics] = {}
        for device in {measured.device for _, measured in self._measured}:
            places, vectors = zip(*(each for each in self._measured if each[1].device == device), strict=True)
            summaries |= zip(places, _unpacked(torch.stack(vectors)), strict=True)
        in_order = [summaries[place] for place in range(self._count)]
        self._count = 0
        self._measured.clear()
        self._alike.clear()
        return in_order


def summarise(tensor: Tensor) -> Statistics:
    """The summary of one tensor, of any shape and dtype, on any device."""
    return next(_unpacked(measure(tensor)[None]))


def other_statistic(told: Any, values: Statistics, *, near: float) -> str | None:
    """A statistic of `told` that is not that of `values`, in words; None where all that are told are.

    They may be `near` apart, relative to the largest magnitude.
    """
    apart = near * max(abs(values.min or 0.0), abs(values.max or 0.0))
    for name in ("min", "max", "mean", "rms", "absmean"):
        found, wanted = getattr(values, name), getattr(told, name)
        if found is not None and wanted is not None and not abs(found - wanted) <= apart:
            return f"{name} {found:.6g}, not {wanted:.6g}"
    return None


def project(tensor: Tensor) -> bytes:
    """The sketch [SKETCH_SIZE] of a finite fp64 tensor of any shape, in fp64, little-endian."""
    flat = tensor.detach().reshape(-1)
    within, across = _signs(-(-len(flat) // CHUNK), flat.device)
    sketch = torch.zeros(SKETCH_SIZE, dtype=torch.float64, device=flat.device)
    for chunk, signs, sign in zip(torch.split(flat, CHUNK), within, across, strict=True):
        sketch += _sketch((chunk * signs[: len(chunk)])[None])[0] * sign
    return sketch.cpu().numpy().astype("<f8").tobytes()


def _unpacked(measured: Tensor) -> Iterator[Statistics]:
    """The summaries of `measured` [n, sum(_MEASURED)]; waits for the device that it lies on."""
    columns, samples, sketches = torch.split(measured.cpu(), _MEASURED, dim=1)
    # Infinite, without numpy's warning, where a projection of huge values leaves fp32.
    for row in zip(columns.tolist(), samples.tolist(), sketches.float().numpy().astype("<f4"), strict=True):
        yield Statistics.of(row[0], row[1], row[2].tobytes())


def measure(tensor: Tensor) -> Tensor:
    """The columns, sample and sketch [sum(_MEASURED)] fp64, on the tensor's device. Values are read as fp32.

    On an accelerator nothing here waits for the device.
    """
    flat = tensor.detach().reshape(-1)
    if len(flat) <= CHUNK:
        return _measure_rows(flat[None])[0]
    whole, rest = divmod(len(flat), CHUNK)
    within, across = _signs(whole + bool(rest), flat.device)
    rows, at_once = flat[: whole * CHUNK].view(whole, CHUNK), _AT_ONCE // CHUNK
    blocks = list(zip(torch.split(rows, at_once), torch.split(within[:whole], at_once), strict=True))
    if rest:
        blocks.append((flat[whole * CHUNK :][None], within[whole:, :rest]))
    reduced, sketches = zip(*(_reduce(block.float(), signs) for block, signs in blocks), strict=True)
    sketch = (torch.cat(sketches) * across[:, None]).sum(0)
    return torch.cat([_combine(torch.cat(reduced)), _sample(flat), sketch])


def _measure_rows(rows: Tensor) -> Tensor:
    """What `measure` gives for each row of `rows` [n, at most CHUNK]: [n, sum(_MEASURED)]."""
    count, width = rows.shape
    if not width:
        nothing = rows.new_zeros(count, sum(_MEASURED), dtype=torch.float64)
        nothing[:, len(_COLUMNS) : len(_COLUMNS) + SAMPLES] = math.nan
        return nothing
    within, across = _signs(1, rows.device)
    blocks = torch.split(rows, max(1, _AT_ONCE // width))
    reduced, sketches = zip(*(_reduce(block.float(), within[:, :width]) for block in blocks), strict=True)
    return torch.cat([torch.cat(reduced), _sample(rows), torch.cat(sketches) * across], dim=1)


@dataclass(frozen=True)
class _Tame:
    """Chunks [c, width] fp32 whose squares and sums stay within fp32: what `values` times `scale` [c, 1] stands for."""

    values: Tensor
    scale: Tensor
    finite: Tensor


def _reduce(rows: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Chunks `rows` [c, width] fp32 reduced to _COLUMNS [c, 10] and to their sketches [c, SKETCH_SIZE], both fp64."""
    low, high = rows.amin(1), rows.amax(1)
    if rows.device.type == "cpu" and _is_plain(low, high):
        count, none = torch.full_like(low, rows.shape[1]), torch.zeros_like(low)
        moments, sketch = _moments(rows, count, within, finite=None)
        return torch.stack([count, *moments, low, high, none, none, none], dim=1).double(), sketch.double()
    tame = _tame(rows)
    count = tame.finite.sum(1)
    scale = tame.scale[:, 0].double()
    (mean, shift, squares, absolute), sketch = _moments(tame.values, count, within, finite=tame.finite)
    moments = (mean * scale, shift * scale, squares * scale.square(), absolute * scale)
    low = torch.where(tame.finite, rows, torch.inf).amin(1)
    high = torch.where(tame.finite, rows, -torch.inf).amax(1)
    special = (kind.sum(1) for kind in (rows.isnan(), rows.isposinf(), rows.isneginf()))
    columns = torch.stack([each.double() for each in (count, *moments, low, high, *special)], dim=1)
    return columns, sketch * tame.scale.double()


def _is_plain(low: Tensor, high: Tensor) -> bool:
    """Whether the chunks can be reduced as they are. On a CPU looking is free; an accelerator would be waited for."""
    magnitudes = torch.maximum(high, -low).tolist()
    return all(magnitude == 0 or _SMALL < magnitude < _LARGE for magnitude in magnitudes)


def _tame(rows: Tensor) -> _Tame:
    finite = torch.isfinite(rows)
    values = rows.masked_fill(~finite, 0.0)
    # Dividing by a power of two is exact. The largest values have the exponent 128, whose power is no fp32 any more.
    scale = torch.exp2(torch.frexp(values.abs().amax(1, keepdim=True))[1].clamp(max=127).float())
    return _Tame(values / scale, scale, finite)


def _moments(
    values: Tensor, count: Tensor, within: Tensor, *, finite: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """([mean, shift, squares, absolute of _COLUMNS], sketch) of each chunk, fp32."""
    mean = values.sum(1) / count.clamp(min=1)
    deviations = values - mean[:, None]
    if finite is not None:
        deviations *= finite
    shift, squares = deviations.sum(1), deviations.square_().sum(1)
    scratch = deviations  # done with: fresh memory would cost as much as the arithmetic
    absolute = torch.abs(values, out=scratch).sum(1)
    return (mean, shift, squares, absolute), _sketch(torch.mul(values, within, out=scratch))


def _sketch(signed: Tensor) -> Tensor:
    """Signed random projection [c, SKETCH_SIZE] fp32 of chunks whose signs are drawn: element i goes to bucket i mod k.

    The sign of an element is that of its place (see `_signs`) times that of its chunk, so E||sketch||^2 = ||x||^2, and
    chunks that are alike, as in a constant offset, do not cancel. The map is linear: the difference of two sketches is
    the sketch of the difference.
    """
    if short := -signed.shape[1] % SKETCH_SIZE:
        signed = torch.nn.functional.pad(signed, (0, short))
    return signed.view(len(signed), -1, SKETCH_SIZE).sum(1)


def _combine(chunks: Tensor) -> Tensor:
    """_COLUMNS [10] of the whole tensor from those of its chunks [c, 10]; squares by the parallel-variance formula."""
    count, near_mean, shift, squares, absolute, low, high, *special = chunks.unbind(1)
    off = shift / count.clamp(min=1)
    means = near_mean + off
    mean = (count * means).sum() / count.sum().clamp(min=1)
    squares = squares - shift * off + count * (means - mean).square()
    sums = [count.sum(), mean, torch.zeros_like(mean), squares.sum(), absolute.sum()]
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


def _sample(flat: Tensor) -> Tensor:
    """[..., SAMPLES] fp64: the elements of `flat` [..., size] at evenly spread positions."""
    return flat[..., _positions(flat.shape[-1], flat.device)].double()


@lru_cache(maxsize=1024)
def _positions(size: int, device: torch.device) -> Tensor:
    """SAMPLES evenly spread positions of a flat tensor, first and last included."""
    return torch.linspace(0, size - 1, SAMPLES, dtype=torch.float64).round().long().to(device)
