"""SGLang's dumper: a file for each value, its tags in its name and, more surely, inside."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import load_pickle
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes, one_process
from waypoint_parity.harness.record.foreign.tensors import comparable, flatten

NAME = "SGLang dumper"
_INDEX = re.compile(r"(?:^|___)dump_index=(\d+)")
_RANK = re.compile(r"(?:^|___)rank=(\d+)")
_HOOKED = "non_intrusive__"
_SHOWN = re.compile(r"(?:(?P<module>.*)\.)?(?P<kind>outputs?|inputs)(?P<inner>(?:\.[^.]+)*)")
# Of a file's tags, those that are no part of what names its value.
_OWN = ("step", "rank", "dump_index", "name", "recompute_status", "dims", "frame", "phase")


def recognises(source: Path, head: bytes) -> bool:
    """Whether a folder, or one inside it, has files with such names; or a file has one."""
    return "___name=" in source.name if source.is_file() else bool(_files(source))


def _files(source: Path) -> list[Path]:
    """The files of a dump in the order of execution."""
    paths = [source] if source.is_file() else [path for path in source.rglob("*.pt") if "___name=" in path.name]
    return sorted(paths, key=lambda path: (_number(_INDEX, path), path.name))


def _number(pattern: re.Pattern[str], path: Path) -> int:
    found = pattern.search(path.name)
    return 0 if found is None else int(found[1])


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """The values in the order of their dump_index. Raises UserError for a file that is broken."""
    paths = _files(source)
    folders = {str(path.parent.relative_to(source)) for path in paths} if source.is_dir() else {"."}
    if len(folders) > 1:
        raise UserError(
            f"{source}: holds several dumps of SGLang",
            found=", ".join(sorted(folders)),
            expected="one of them",
            do="name its own folder",
        )
    ranks = {f"rank{_number(_RANK, path)}" for path in paths}
    process = one_process(ranks, asked, source)
    notes.say(f"Of SGLang's processes this is {process}.")
    steps = set()
    for path in (path for path in paths if f"rank{_number(_RANK, path)}" == process):
        held = load_pickle(path)
        if not isinstance(held, dict) or not isinstance(held.get("meta"), dict) or "value" not in held:
            raise UserError(
                f"{path}: is no file of SGLang's dumper",
                found=type(held).__name__,
                expected="a dict with value and meta",
                do="leave it out of the folder",
            )
        steps.add(held["meta"].get("step"))
        yield from _found(held["value"], held["meta"], asked, notes)
    if len(steps) == 1:
        notes.say("All values are of one step, perhaps since nobody counted steps: a repeat is a call, unless told.")


def _found(value: Any, meta: dict[str, Any], asked: Asked, notes: Notes) -> Iterator[Found]:
    name, is_input = _named(meta)
    if is_input and not asked.inputs:
        notes.leave_out("inputs of modules")
        return
    for entry in flatten(value):
        if (tensor := comparable(entry.value, notes)) is not None:
            inner = "".join(f"[{getattr(part, 'number', part)}]" for part in entry.path)
            phase, frame, step = (meta.get(tag) for tag in ("phase", "frame", "step"))
            yield Found(
                name=f"{name}{inner}",
                value=tensor,
                phase=str(phase) if phase else None,
                frame=frame if isinstance(frame, int) else None,
                step=step if isinstance(step, int) else None,
            )


def _named(meta: dict[str, Any]) -> tuple[str, bool]:
    """(name, whether it is an input) of a value; tags that its caller gave, such as a layer's number, belong to it."""
    name = str(meta.get("name", ""))
    if name.startswith(_HOOKED) and (shown := _SHOWN.fullmatch(name.removeprefix(_HOOKED).lstrip("."))):
        module, inner = shown["module"] or "", shown["inner"]
        if shown["kind"] == "inputs":
            return f"{module}.inputs{inner}".lstrip("."), True
        return (module or "output") + "".join(f"[{part}]" for part in inner.split(".")[1:]), False
    tags = (
        f".{tag}.{value}"
        for tag, value in meta.items()
        if tag not in _OWN and not tag.startswith("world_") and isinstance(value, int | str)
    )
    return name + "".join(tags), False
