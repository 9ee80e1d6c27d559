"""Ascend msprobe: step<n>/{proc<pid>|rank<r>}/dump.json with statistics, beside it perhaps the tensors."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import load_pickle, reading
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes, one_process
from waypoint_parity.harness.record.foreign.natural import natural
from waypoint_parity.harness.record.foreign.tensors import comparable
from waypoint_parity.harness.record.foreign.told import as_told, number, rounding, sizes, told

NAME = "msprobe"
_MODULE = re.compile(r"(?:Module|Cell)\.(.+)\.[^.]+\.forward\.(\d+)")
# A function has no place in the model, only a number that counts through the step.
_FUNCTION = re.compile(r"(.+)\.(\d+)\.forward")
_EXPECTED = "a dump.json of msprobe, whole"


def recognises(source: Path, head: bytes) -> bool:
    """Whether it is such a folder, or a dump.json itself."""
    if source.is_dir():
        return bool(_dumps(source))
    return source.name == "dump.json" and b'"task"' in head and b'"level"' in head


def _dumps(source: Path) -> list[Path]:
    """Every dump.json of a dump: of all steps, of one, or of one process."""
    if source.is_file():
        return [source]
    patterns = ("step*/*/dump.json", "*/dump.json", "dump.json")
    found = next((paths for pattern in patterns if (paths := list(source.glob(pattern)))), [])
    return sorted(found, key=lambda path: natural(str(path)))


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """What modules and functions gave forwards, step by step. Raises UserError for a file that is broken."""
    paths = _dumps(source.resolve())
    process = one_process({path.parent.name for path in paths}, asked, source)
    notes.say(f"Of msprobe's processes this is {process}.")
    notes.say("What a step of msprobe is, a frame or a step or a session, was for its caller to say.")
    for path in (path for path in paths if path.parent.name == process):
        step = re.fullmatch(r"step(\d+)", path.parent.parent.name)
        yield from _of_step(path, int(step[1]) if step else 0, asked, notes)


def _of_step(path: Path, step: int, asked: Asked, notes: Notes) -> Iterator[Found]:
    for entry, values in _entries(path).items():
        named = _MODULE.fullmatch(entry) or _FUNCTION.fullmatch(entry)
        if named is None or not isinstance(values, dict):
            notes.leave_out("entries of msprobe that are no forward call")
            continue
        name, call = named.groups()
        notes.leave_out("parameters of modules", sum(1 for _ in _leaves(values.get("parameters"), "")))
        outputs = values.get("output")
        shown = list(_leaves(outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs, name))
        taken = list(_leaves(values.get("input_args"), f"{name}.inputs", "."))
        taken += _leaves(values.get("input_kwargs"), f"{name}.inputs", ".")
        if not asked.inputs:
            notes.leave_out("inputs of modules", len(taken))
        for site, leaf in [*(taken if asked.inputs else []), *shown]:
            if (found := _found(path, site, leaf, notes, step=step, call=int(call))) is not None:
                yield found


def _entries(path: Path) -> dict[str, Any]:
    try:
        with reading(path), path.open("rb") as file:
            entries = json.load(file)["data"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(
            f"{path}, line {line}: cannot be read", found=str(error), expected=_EXPECTED, do="dump again"
        ) from error
    if not isinstance(entries, dict):
        raise UserError(f"{path}: has no entries", found=str(entries)[:40], expected=_EXPECTED, do="dump again")
    return entries


def _leaves(value: Any, name: str, between: str = "[") -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, leaf) of everything in nested dicts and lists that has a type."""
    if isinstance(value, dict) and "type" in value:
        yield name, value
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]" if between == "[" else f"{name}.{index}", between)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}", between)


def _found(path: Path, site: str, leaf: dict[str, Any], notes: Notes, *, step: int, call: int) -> Found | None:
    dtype, shape, kept = leaf.get("dtype"), sizes(leaf.get("shape")), leaf.get("data_name")
    if not isinstance(dtype, str) or shape is None:
        notes.leave_out("values that are no tensors")
        return None
    checksum = leaf.get("md5")
    resolution = rounding(dtype.removeprefix("torch."))
    value = told(
        shape=shape,
        dtype=dtype,
        resolution=resolution,
        mean=number(leaf.get("Mean")),
        norm=number(leaf.get("Norm")),
        low=number(leaf.get("Min")),
        high=number(leaf.get("Max")),
        digest=f"crc32:{checksum}" if isinstance(checksum, str) else None,
    )
    if isinstance(kept, str):
        # The name of a file may be a path of the machine that wrote it.
        file = path.parent / "dump_tensor_data" / PureWindowsPath(kept).name
        if file.is_file():
            tensor = comparable(load_pickle(file), notes)
            if tensor is None:
                return None
            return Found(name=site, value=as_told(tensor, value, file), step=step, call=call)
        notes.leave_out("tensors whose files are gone, so that statistics stand for them")
    if resolution > rounding("float32"):
        notes.say(f"Statistics of {dtype} were rounded to it, so they are off by {resolution:.1g} at the most.")
    return Found(name=site, value=value, step=step, call=call)
