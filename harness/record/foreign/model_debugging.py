"""Model debugging of transformers: a tree of module calls, with printed statistics and perhaps files of tensors."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import open_tensors, reading
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes
from waypoint_parity.harness.record.foreign.tensors import tensor_in
from waypoint_parity.harness.record.foreign.told import as_told, rounding, told

NAME = "transformers model debugging"
_TREE = "_debug_tree_FULL_TENSORS.json"
# Five digits are printed.
_PRINTED = 1e-4
_NUMBER = re.compile(r"tensor\(\s*([^,)\s]+)")
_NUMBERED = re.compile(r"(.+)\.(\d+)")
_EXPECTED = "a tree of module calls as transformers writes it, whole"


def recognises(source: Path, head: bytes) -> bool:
    """Whether it is a folder with such a tree, or the tree itself."""
    return source.name.endswith(_TREE) if source.is_file() else any(source.glob(f"*{_TREE}"))


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """What modules gave, in the order in which their calls ended. Raises UserError for a file that is broken."""
    paths = [source] if source.is_file() else sorted(source.glob(f"*{_TREE}"))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(
            f"{source}: holds several models", found=names, expected="one of them", do="name its tree itself"
        )
    notes.say("Only the last pass of a run is there, without frames and steps.")
    notes.say("Modules with parts have no outputs there; inner layers of the model may have been left out.")
    try:
        with reading(paths[0]), paths[0].open("rb") as file:
            tree = json.load(file)
        yield from _Tree(paths[0], tree, asked, notes).found()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        line = getattr(error, "lineno", 1)
        raise UserError(
            f"{paths[0]}, line {line}: cannot be read", found=str(error), expected=_EXPECTED, do="write it again"
        ) from error


class _Tree:
    def __init__(self, path: Path, tree: dict[str, Any], asked: Asked, notes: Notes) -> None:
        self._folder = path.parent
        self._tree = tree
        self._root = str(tree["module_path"])
        self._asked = asked
        self._notes = notes
        self._calls_left = Counter(str(node["module_path"]) for node in _nodes(tree))

    def found(self) -> Iterator[Found]:
        """Every call's values: a module's parts before itself."""
        return self._of_node(self._tree, None)

    def _of_node(self, node: dict[str, Any], behind: dict[str, Any] | None) -> Iterator[Found]:
        children = node.get("children") or []
        # What follows the last part is what follows the whole.
        for child, after in zip(children, [*children, behind][1:], strict=True):
            yield from self._of_node(child, after)
        path = str(node["module_path"])
        name = path.removeprefix(self._root).removeprefix(".")
        self._calls_left[path] -= 1
        # A module that is called again writes to the same files: they hold its last call.
        is_last = not self._calls_left[path]
        inputs = list(_leaves(node.get("inputs"), f"{name}.inputs".removeprefix("."), "."))
        if self._asked.inputs:
            for site, leaf in inputs:
                yield from self._value(site.replace(".inputs.args.", ".inputs."), leaf, is_last)
        else:
            self._notes.leave_out("inputs of modules", len(inputs))
        if node.get("outputs") is not None:
            for site, leaf in _leaves(node["outputs"], name or "output", "["):
                yield from self._value(site, leaf, is_last)
        elif self._asked.block_outputs and behind is not None and _follows(path, str(behind["module_path"])):
            for _, taken in islice(_leaves(behind.get("inputs"), "", "."), 1):
                self._notes.say("Outputs of numbered blocks are the inputs of what is called next.")
                yield from self._value(name, taken, self._calls_left[str(behind["module_path"])] == 1)

    def _value(self, name: str, leaf: dict[str, Any], is_last: bool) -> Iterator[Found]:
        kept, dtype = leaf.get("value"), str(leaf["dtype"])
        value = told(
            shape=_shape(leaf),
            dtype=dtype,
            resolution=max(_PRINTED, rounding(dtype.removeprefix("torch."))),
            mean=_number(leaf, "mean"),
            sample_std=_number(leaf, "std"),
            low=_number(leaf, "min"),
            high=_number(leaf, "max"),
        )
        if isinstance(kept, str) and is_last:
            path = self._folder / PureWindowsPath(kept).name
            if path.is_file():
                tensor = tensor_in(open_tensors(path, called="a tensor of a module"), "data", path)
                yield Found(name=name, value=as_told(tensor, value, path))
                return
            self._notes.leave_out("tensors whose files are gone, so that statistics stand for them")
        elif isinstance(kept, str):
            self._notes.leave_out("tensors of modules that were called again, whose files hold the last call alone")
        self._notes.say("Printed statistics have five digits, of the tensor's own dtype; printed values are not read.")
        yield Found(name=name, value=value)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("children") or []:
        yield from _nodes(child)


def _leaves(value: Any, name: str, between: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, leaf) of every tensor in nested values."""
    if isinstance(value, dict) and "shape" in value and "dtype" in value:
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}", between)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]" if between == "[" else f"{name}.{index}", between)


def _follows(block: str, after: str) -> bool:
    """Whether what is called next takes the output of a numbered block: the next block, or no block of these."""
    this, other = _NUMBERED.fullmatch(block), _NUMBERED.fullmatch(after)
    if this is None:
        return False
    return other is None or other[1] != this[1] or int(other[2]) == int(this[2]) + 1


def _shape(leaf: dict[str, Any]) -> list[int]:
    return [int(size) for size in re.findall(r"\d+", str(leaf["shape"]))]


def _number(leaf: dict[str, Any], statistic: str) -> float | None:
    found = _NUMBER.match(str(leaf.get(statistic, "")))
    try:
        return None if found is None else float(found[1])
    except ValueError:
        return None
