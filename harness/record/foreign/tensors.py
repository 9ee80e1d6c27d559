"""Plain tensors: .safetensors, .npz, .npy and .pt files, alone or in folders, and what their names tell of steps."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, zip_longest
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import load_pickle, mistaken_for, open_tensors, reading
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes, one_process
from waypoint_parity.harness.record.foreign.natural import inner_first, natural

NAME = "tensors"
INDEX = "tensor_dump_index.json"
_FRAME = re.compile(r"frame[_-]?(\d+)", re.IGNORECASE)
_STEP = re.compile(r"(?:step|pass)[_-]?(\d+)", re.IGNORECASE)
_PROCESS = re.compile(r"proc\d+|rank\d+|(?:TP\d+_)?(?:PP\d+_)?Rank\d+(?:_pid\d+)?")
_BY_NAME = "{}: their order is that of names, not of execution, and what comes first is told by it."
# The committing pass of a frame, which writes the caches, runs without noise.
_SIGMAS, _CACHE = "pass_sigmas", "cache"
_HEAD = 512
_DEEPEST = 16
_LONGEST_HEADER = 100_000_000  # of a safetensors file


class _Step(NamedTuple):
    """An index in a list of tensors."""

    number: int
    sigma: float | None
    # Where it comes among those of its phase.
    within: int


class _Entry(NamedTuple):
    """A value of a file, and the names and indices that lead to it."""

    path: tuple[str | _Step, ...]
    value: Any


def recognises(source: Path, head: bytes) -> bool:
    """Whether it is a file of tensors, an index of such files, or a folder with one of them in it."""
    if source.is_dir():
        return any(True for _ in _files(source)) or (source / INDEX).is_file()
    return source.name == INDEX or _reader(head) is not None


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """Every tensor, file by file in the order of names. Raises UserError for a file that is broken."""
    index = source / INDEX if source.is_dir() else source
    if index.name == INDEX and index.is_file():
        yield from _indexed(index, asked, notes)
        return
    if source.is_file():
        yield from _of_file(source, (), asked, notes)
        return
    files = {path: path.relative_to(source) for path in _files(source)}
    processes = {part for name in files.values() for part in name.parts[:-1] if _PROCESS.fullmatch(part)}
    if processes:
        process = one_process(processes, asked, source)
        notes.say(f"Of the processes whose values lie there this is {process}.")
        files = {path: name for path, name in files.items() if process in name.parts}
    others = sum(1 for path in source.rglob("*") if path.is_file()) - len(files)
    notes.leave_out("files that hold no tensors, or those of another process", others)
    if len(files) > 1:
        notes.say(_BY_NAME.format("Files"))
    for path in sorted(files, key=lambda path: _place(files[path])):
        yield from _of_file(path, (*files[path].parts[:-1], path.stem), asked, notes)


def tensor_in(file: Any, name: str, path: Path) -> Tensor:
    """One tensor of an open safetensors file. Raises UserError where it has none by that name that torch can hold."""
    try:
        tensor: Tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(
            f"{path}: {name} cannot be read",
            found=str(error),
            expected="a tensor of a type that torch has",
            do="save it as another type",
        ) from error
    return tensor


def flatten(value: Any, path: tuple[str | _Step, ...] = ()) -> Iterator[_Entry]:
    """Every value in nested dicts and lists. A list of tensors is one over steps, any other one a part of names."""
    if isinstance(value, dict):
        sigmas = value.get(_SIGMAS)
        for name, item in value.items():
            with_sigmas = sigmas if isinstance(item, list) and isinstance(sigmas, list) else None
            yield from _flatten_list(item, (*path, str(name)), with_sigmas)
    else:
        yield from _flatten_list(value, path, None)


def _flatten_list(value: Any, path: tuple[str | _Step, ...], sigmas: list[Any] | None) -> Iterator[_Entry]:
    if len(path) > _DEEPEST:
        # A list may hold itself.
        yield _Entry(path, None)
    elif isinstance(value, dict):
        yield from flatten(value, path)
    elif not isinstance(value, list | tuple):
        yield _Entry(path, value)
    elif value and all(isinstance(item, Tensor) for item in value):
        known = sigmas if sigmas is not None and len(sigmas) == len(value) else [None] * len(value)
        numbers = {True: count(), False: count()}
        for index, (item, sigma) in enumerate(zip(value, known, strict=True)):
            level = float(sigma) if isinstance(sigma, int | float) else None
            yield _Entry((*path, _Step(index, level, next(numbers[level == 0]))), item)
    else:
        for index, item in enumerate(value):
            yield from _flatten_list(item, (*path, str(index)), None)


def comparable(value: Any, notes: Notes) -> Tensor | None:
    """A value as a tensor of real numbers; None, and counted, where it is none."""
    if not isinstance(value, Tensor):
        notes.leave_out("values that are no tensors")
        return None
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        notes.leave_out("tensors that are sparse, quantised or without values")
        return None
    value = value.detach()
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _of_file(path: Path, around: tuple[str, ...], asked: Asked, notes: Notes) -> Iterator[Found]:
    """The tensors of one file; `around`: the names of folders and files that are a part of theirs."""
    with reading(path), path.open("rb") as file:
        head = file.read(_HEAD)
    reader = _reader(head)
    if reader is None:
        found, do = mistaken_for(path) or ("something else", "name files of tensors")
        raise UserError(f"{path}: is no file of tensors", found=found, expected="tensors", do=do)
    entries = reader(path)
    if reader is _safetensors or asked.by_name:
        notes.say(_BY_NAME.format("Tensors of a file"))
        entries = iter(sorted(entries, key=lambda entry: inner_first(_name(entry.path))))
    for entry in entries:
        value = entry.value() if callable(entry.value) else entry.value
        if (tensor := comparable(value, notes)) is not None:
            # A file that is read alone gives its name to what has none, and its number to all.
            own = around or ((path.stem,) if not entry.path or _is_number(path.stem) else ())
            yield from _placed(_naming(own), entry.path, tensor, asked)


def _is_number(part: str) -> bool:
    return bool(_FRAME.fullmatch(part) or _STEP.fullmatch(part))


def _naming(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without folders of processes, and those that only gather numbered ones, as `frames` does frame_000."""
    kept = [part for part, after in zip_longest(parts, parts[1:], fillvalue="") if not _gathers(part, after)]
    return tuple(part for part in kept if not _PROCESS.fullmatch(part))


def _gathers(part: str, after: str) -> bool:
    return _is_number(after) and part.lower() in ("frames", "steps", "passes")


def _placed(around: tuple[str, ...], path: tuple[str | _Step, ...], tensor: Tensor, asked: Asked) -> Iterator[Found]:
    """A tensor by its key, or its slices where its first axis runs over units or steps."""
    names: list[str] = []
    # Nothing is there twice, so that a repeated name is a mistake.
    numbers: dict[str, Any] = {"call": 0}
    inside = [part for part in path if isinstance(part, _Step)]
    for part in (*around, *(part for part in path if isinstance(part, str))):
        if (of_frame := _FRAME.fullmatch(part)) is not None:
            numbers["frame"] = int(of_frame[1])
        elif (of_step := _STEP.fullmatch(part)) is not None:
            numbers["step"] = int(of_step[1])
        else:
            names.append(part)
    name = ".".join(names) or "output"
    for place in inside:
        if asked.along_units(name):
            numbers["frame"] = place.number
        elif asked.steps_along is None or asked.along_steps(name):
            numbers |= {"step": place.within, "sigma": place.sigma}
            numbers["phase"] = _CACHE if place.sigma == 0 else None
        else:
            name = f"{name}.{place.number}"
    by_unit, by_step = not inside and asked.along_units(name), not inside and asked.along_steps(name)
    for unit, slice_of_unit in _slices(tensor, "frame", by_unit):
        for step, value in _slices(slice_of_unit, "step", by_step):
            yield Found(name=name, value=value, **{**numbers, **unit, **step})


def _slices(tensor: Tensor, number: str, wanted: bool) -> Iterator[tuple[dict[str, int], Tensor]]:
    """(its number, slice) along the first axis where that is wanted; else the tensor as a whole."""
    if not wanted or not tensor.dim():
        yield {}, tensor
        return
    yield from (({number: index}, value) for index, value in enumerate(tensor.unbind()))


def _indexed(index: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """The tensors that an index of files names. The files lie beside it, wherever they were written."""
    try:
        with reading(index), index.open("rb") as file:
            entries = json.load(file)
        listed = [(str(e["phase"]), str(e["module_name"]), PureWindowsPath(e["file"]).name) for e in entries]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        expected = "a list of entries with phase, module_name and file"
        raise UserError(
            f"{index}, line {line}: cannot be read", found=str(error), expected=expected, do="dump again"
        ) from error
    notes.say(_BY_NAME.format("Tensors of an index"))
    notes.say("Its writer keeps the first call of a module in each phase, and rounds every float to bf16.")
    for phase, module, name in sorted(listed, key=lambda entry: (entry[0], inner_first(entry[1]))):
        path = next((file for file in (index.parent / "tensors" / name, index.parent / name) if file.is_file()), None)
        if path is None:
            notes.leave_out("tensors that the index names and whose files are gone")
            continue
        for entry in flatten(load_pickle(path)):
            if (tensor := comparable(entry.value, notes)) is not None:
                inner = "".join(f"[{part.number if isinstance(part, _Step) else part}]" for part in entry.path)
                yield Found(name=f"{module or 'output'}{inner}", value=tensor, phase=phase)


def _files(folder: Path) -> Iterator[Path]:
    """Every file of tensors below a folder."""
    with reading(folder):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".json"):
                with reading(path), path.open("rb") as file:
                    if _reader(file.read(_HEAD)) is not None:
                        yield path


def _place(name: Path) -> tuple[Any, ...]:
    return (*([natural(part)] for part in name.parts[:-1]), inner_first(name.stem))


def _name(path: tuple[str | _Step, ...]) -> str:
    return ".".join(str(part.number) if isinstance(part, _Step) else part for part in path)


def _safetensors(path: Path) -> Iterator[_Entry]:
    file = open_tensors(path, called="a file of tensors")
    for name in file.keys():  # noqa: SIM118  # no mapping
        yield _Entry((name,), partial(tensor_in, file, name, path))


def _numpy(path: Path) -> Iterator[_Entry]:
    try:
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                yield _Entry((), _as_tensor(held))
                return
            for name in held.files:
                yield _Entry((name,), _as_tensor(held[name]))
    # Broken archives raise whatever their bytes lead to.
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as a file of numpy",
            found=str(error),
            expected="whole arrays of numbers; bf16 is none of numpy's types, and objects are never loaded",
            do="save them as safetensors",
        ) from error


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor | None:
    """An array of numbers; nothing of dates and texts, which are often kept beside them."""
    if array.dtype.kind in "USmM":
        return None
    native = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(native)


def _torch(path: Path) -> Iterator[_Entry]:
    yield from flatten(load_pickle(path))


def _reader(head: bytes) -> Callable[[Path], Iterator[_Entry]] | None:
    """What reads a file that begins so."""
    if head[:6] == b"\x93NUMPY" or (head[:4] == b"PK\x03\x04" and b".npy" in head[30:300]):
        return _numpy
    if head[:4] == b"PK\x03\x04" or head[:2] == b"\x80\x02":
        return _torch
    return _safetensors if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER else None
