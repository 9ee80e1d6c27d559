"""Accepted values of a test: a small file beside it, which later runs are judged by."""

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.testing._comparison import default_tolerances

from waypoint_parity.harness.api.values import named_tensors
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import read_document, replacing, writing
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.digest import fast_digest, flat_bytes
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.worker import environment

SCHEMA = "waypoint-parity/accepted-values/1"
# A tensor of at most so many elements is kept whole; of a larger one so many, with its statistics and projections.
MOST_ELEMENTS = 4096
# Sums with random signs. An element that is off by its tolerance moves each by that, and all together by its root mean
# square times the root of their number: more than six times that happens by chance once in 10^9.
PROJECTIONS, _SIGMAS = 8, 6.0
_HASH = 0x9E3779B97F4A7C15
_PHASE = "values"


class AcceptedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a tensor: one of every `every` elements as bytes, a digest; statistics and sums of the finite."""

    dtype: str
    shape: list[int]
    digest: str
    every: int
    elements: str
    projections: list[float]
    rms: float
    absmean: float
    nan: int
    infinite: int

    def kept(self) -> Tensor:
        """The elements [n] in their own dtype. Raises UserError where they are none."""
        try:
            return torch.frombuffer(bytearray(base64.b64decode(self.elements)), dtype=getattr(torch, self.dtype))
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(
                "accepted values cannot be read",
                found=str(error),
                expected=f"elements of {self.dtype} in base64",
                do="accept them again: pytest --parity-accept",
            ) from error


class AcceptedValues(msgspec.Struct, frozen=True, kw_only=True):
    """What a test accepted: its tensors by name, in order, and what made them."""

    schema: str
    test: str
    made: dict[str, str]
    values: dict[str, AcceptedTensor]


def accept(value: Any, test: str, path: Path) -> None:
    """Write what is kept of a value. Raises UserError where nothing could be judged by it."""
    values = {_name(key): _accepted(_name(key), tensor) for key, tensor in named_tensors(value).items()}
    if not values:
        raise _nothing(test, "no tensor")
    told = AcceptedValues(schema=SCHEMA, test=test, made=environment(), values=values)
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(to_json(told))


def first_unlike(value: Any, path: Path, *, rtol: float | None, atol: float | None) -> str | None:
    """The first divergence of a value from what was accepted, in words; None where there is none.

    `rtol` and `atol` are those of torch.testing.assert_close; where they are not given, its defaults for the dtype.
    Raises UserError for a broken file.
    """
    accepted = read_document(
        path, AcceptedValues, SCHEMA, called="accepted values", do="accept them again: pytest --parity-accept"
    )
    found = {_name(key): tensor for key, tensor in named_tensors(value).items()}
    problem = next(filter(None, map(_problem, *_pairs(found, accepted.values, rtol, atol))), None)
    if problem is None:
        return None
    rule = "its defaults for the dtype" if rtol is None else f"rtol {rtol:g}, atol {atol:g}"
    here, made = (f"torch {of['torch']}, {of['processor']}" for of in (environment(), accepted.made))
    return (
        f"DIVERGED from what was accepted: {accepted.test}\n"
        f"  first divergence: {problem}\n"
        f"  judged by:        torch.testing.assert_close, {rule}; other machines give other bits\n"
        f"  accepted with:    {made}\n"
        f"  computed with:    {here}\n"
        f"  accepted values:  {path}; pytest --parity-accept replaces them"
    )


def _pairs(
    found: Mapping[str, Tensor], accepted: Mapping[str, AcceptedTensor], rtol: float | None, atol: float | None
) -> tuple[list[Any], ...]:
    names = list({**accepted, **found})
    count = len(names)
    return names, [found.get(n) for n in names], [accepted.get(n) for n in names], [rtol] * count, [atol] * count


def _problem(
    name: str, actual: Tensor | None, accepted: AcceptedTensor | None, rtol: float | None, atol: float | None
) -> str | None:
    """What is wrong with a tensor, in words; None where nothing is."""
    if actual is None or accepted is None:
        return f"{name}: {'is missing' if actual is None else 'was not accepted'}"
    actual = actual.detach().cpu()
    dtype = str(actual.dtype).removeprefix("torch.")
    if dtype != accepted.dtype or list(actual.shape) != accepted.shape:
        return f"{name}: {dtype} {list(actual.shape)}, accepted {accepted.dtype} {accepted.shape}"
    if fast_digest(actual) == accepted.digest:
        return None
    here = _accepted(name, actual)
    if (here.nan, here.infinite) != (accepted.nan, accepted.infinite):
        return f"{name}: {here.nan} NaN and {here.infinite} infinite, accepted {accepted.nan} and {accepted.infinite}"
    which = "" if accepted.every == 1 else f" (one of every {accepted.every} elements)"
    if wrong := _unlike(here.kept(), accepted.kept(), rtol, atol):
        return f"{name}{which}: {wrong}"
    for statistic in ("rms", "absmean"):
        ours, theirs = (
            torch.tensor(getattr(each, statistic), dtype=_floating(actual.dtype)) for each in (here, accepted)
        )
        if wrong := _unlike(ours, theirs, rtol, atol):
            return f"{name} ({statistic}): {wrong}"
    return _projected_unlike(name, here, accepted, rtol, atol)


def _projected_unlike(
    name: str, here: AcceptedTensor, accepted: AcceptedTensor, rtol: float | None, atol: float | None
) -> str | None:
    """Whether elements that were not kept are others, or lie elsewhere."""
    if rtol is None or atol is None:
        rtol, atol = default_tolerances(getattr(torch, accepted.dtype))
    count = math.prod(accepted.shape)
    bound = _SIGMAS * math.sqrt(count) * (atol + rtol * accepted.rms) + 1e-12 * count * accepted.absmean
    apart = [abs(ours - theirs) for ours, theirs in zip(here.projections, accepted.projections, strict=True)]
    if max(apart) <= bound:
        return None
    said = f"sums of all with random signs are {max(apart):.3g} apart, bound {bound:.3g}"
    return f"{name} (elements that were not kept): {said}"


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float64


def _unlike(actual: Tensor, accepted: Tensor, rtol: float | None, atol: float | None) -> str | None:
    """What assert_close says, in one line."""
    try:
        torch.testing.assert_close(actual, accepted, rtol=rtol, atol=atol, equal_nan=True)
    except AssertionError as error:
        return "; ".join(line for line in str(error).splitlines() if line)
    return None


def _accepted(name: str, tensor: Tensor) -> AcceptedTensor:
    tensor = tensor.detach().cpu().contiguous()
    flat = tensor.flatten()
    wide = flat.double()
    finite = wide[wide.isfinite()]
    if not len(finite):
        raise _nothing(name, f"{tensor.dtype} {list(tensor.shape)} without a finite element")
    every = math.ceil(len(flat) / MOST_ELEMENTS)
    return AcceptedTensor(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=list(tensor.shape),
        digest=fast_digest(tensor),
        every=every,
        elements=base64.b64encode(flat_bytes(flat[_places(len(flat), every)]).numpy().tobytes()).decode(),
        projections=_projections(wide.nan_to_num(0.0, 0.0, 0.0).numpy()),
        rms=float(finite.square().mean().sqrt()),
        absmean=float(finite.abs().mean()),
        nan=int(wide.isnan().sum()),
        infinite=int(wide.isinf().sum()),
    )


def _hashed(numbers: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """As good as random, and the same everywhere: random generators may change between releases."""
    mixed = (numbers + np.uint64(salt + 1)) * np.uint64(_HASH)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def _places(size: int, every: int) -> Tensor:
    """One place at random in each run of `every`: in step with the axes of a tensor, all might be of one channel."""
    starts = np.arange(0, size, every, dtype=np.uint64)
    places = starts + _hashed(starts, 0) % np.uint64(every)
    return torch.from_numpy(np.minimum(places, size - 1).astype(np.int64))


def _projections(flat: npt.NDArray[np.float64]) -> list[float]:
    numbers = np.arange(len(flat), dtype=np.uint64)
    return [float(np.where(_hashed(numbers, salt) >> np.uint64(63), flat, -flat).sum()) for salt in range(PROJECTIONS)]


def _nothing(name: str, found: str) -> UserError:
    return UserError(
        f"{name}: nothing could be judged by it",
        found=found,
        expected="values, some of them finite",
        do="check what the test computes",
    )


def _name(key: Key) -> str:
    """The name as it was given."""
    return key.site if key.phase == _PHASE and not key.unit else str(key)


def baseline_path(test: Path, names: str, name: str) -> Path:
    """Where the accepted values of a test lie: `names` is what stands behind its file in the id of the test."""
    parts = [test.stem, *names.split("::"), *([name] if name else [])]
    return test.parent / "__parity__" / f"{'.'.join(map(_fitting, parts))}.json"


def _fitting(name: str) -> str:
    """A name that every file system takes; what had to be changed keeps a digest of what it was."""
    fit = re.sub(r"[^\w\-\[\]=,]+", "_", name, flags=re.ASCII)
    if fit == name and len(fit) <= 100:
        return fit
    return f"{fit[:80]}-{fast_digest(torch.frombuffer(bytearray(name.encode()), dtype=torch.uint8))[:8]}"
