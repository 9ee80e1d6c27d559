"""Accepted values of a test: a small file beside it, which later runs are judged by."""

import base64
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from waypoint_parity.harness.api.values import PHASE, named_tensors
from waypoint_parity.harness.compare.tensor_error import CLOSE, EXACTLY
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import read_document, replacing, writing
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.record.statistics import project
from waypoint_parity.harness.run.digest import fast_digest, flat_bytes
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.worker import environment

SCHEMA = "waypoint-parity/accepted-values/1"
# A tensor of at most so many elements is kept whole; of a larger one so many, with its statistics and sketch.
MOST_ELEMENTS = 4096
# The distance of two sketches is that of the tensors to 9 % (one standard deviation): six of them and no more.
_SKETCHED = 1 + 6 * 0.09


class AcceptedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a tensor: some of its elements as bytes, a digest; statistics and sketch of the finite."""

    dtype: str
    shape: list[int]
    digest: str
    elements: str
    sketch: str
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
    names = {**accepted.values, **found}
    problems = (_problem(name, found.get(name), accepted.values.get(name), rtol, atol) for name in names)
    problem = next(filter(None, problems), None)
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
    kept = accepted.kept()
    which = "" if len(kept) == actual.numel() else f" ({len(kept)} of {actual.numel()} elements)"
    if wrong := _unlike(here.kept(), kept, rtol, atol):
        return f"{name}{which}: {wrong}"
    for statistic in ("rms", "absmean"):
        ours, theirs = (
            torch.tensor(getattr(each, statistic), dtype=_floating(actual.dtype)) for each in (here, accepted)
        )
        if wrong := _unlike(ours, theirs, rtol, atol):
            return f"{name} ({statistic}): {wrong}"
    return _sketch_unlike(name, here, accepted, rtol, atol)


def _sketch_unlike(
    name: str, here: AcceptedTensor, accepted: AcceptedTensor, rtol: float | None, atol: float | None
) -> str | None:
    """Whether elements that were not kept are others, or lie elsewhere."""
    if rtol is None or atol is None:
        rtol, atol = CLOSE.get(getattr(torch, accepted.dtype), EXACTLY)
    size = math.prod(accepted.shape)
    # Sums in fp64 leave 1e-12 of what they add.
    bound = math.sqrt(size) * (_SKETCHED * (atol + rtol * accepted.rms) + 1e-12 * accepted.rms)
    ours, theirs = (np.frombuffer(base64.b64decode(each.sketch), "<f8") for each in (here, accepted))
    apart = float(np.linalg.norm(ours - theirs)) if ours.shape == theirs.shape else math.inf
    if apart <= bound:
        return None
    return f"{name} (elements that were not kept): projections are {apart:.3g} apart, bound {bound:.3g}"


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
    return AcceptedTensor(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=list(tensor.shape),
        digest=fast_digest(tensor),
        elements=base64.b64encode(flat_bytes(flat[_places(len(flat))]).numpy().tobytes()).decode(),
        sketch=base64.b64encode(project(wide.nan_to_num(0.0, 0.0, 0.0))).decode(),
        rms=float(finite.square().mean().sqrt()),
        absmean=float(finite.abs().mean()),
        nan=int(wide.isnan().sum()),
        infinite=int(wide.isinf().sum()),
    )


def _places(size: int) -> Tensor:
    """The places of what is kept of a flat tensor: all, or so many evenly spread, the first and the last among them."""
    return torch.linspace(0, size - 1, min(size, MOST_ELEMENTS), dtype=torch.float64).round().long()


def _nothing(name: str, found: str) -> UserError:
    return UserError(
        f"{name}: nothing could be judged by it",
        found=found,
        expected="values, some of them finite",
        do="check what the test computes",
    )


def _name(key: Key) -> str:
    """The name as it was given."""
    return key.site if key.phase == PHASE and not key.unit else str(key)


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
