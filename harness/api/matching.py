"""Matching: the submodules of two modules by their names, and the tensors of an output by theirs."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.foreign.keys import Renames

# The site of what the whole module returns. No submodule can be called so.
WHOLE = "(output)"
_UNFIT = re.compile("[@#/]")
Rules = Mapping[str, str] | Sequence[str | tuple[str, str]] | None


def renames(rules: Rules) -> Renames:
    """Rules for names: `{regex: replacement}`, pairs of them, or texts `regex=replacement` as `import --rename` takes.

    Raises UserError for what is none.
    """
    given = list(rules.items()) if isinstance(rules, Mapping) else [rules] if isinstance(rules, str) else rules or ()
    found: list[tuple[re.Pattern[str], str]] = []
    for rule in given:
        if isinstance(rule, str):
            found += Renames.read([rule]).rules
            continue
        try:
            pattern, replacement = rule
            found.append((re.compile(pattern), str(replacement)))
        except (re.error, TypeError, ValueError) as error:
            raise UserError(
                "rename: no rule for names",
                found=f"{rule!r} ({error})",
                expected="(regex, replacement), as Python's re.sub takes them",
                do="correct it",
            ) from error
    return Renames(found)


def named_modules(module: nn.Module, renamed: Callable[[str], str] = str) -> dict[str, nn.Module]:
    """Every submodule by its site, the module itself under WHOLE. One whose name becomes empty is left out.

    Raises UserError where two of them get the same name.
    """
    found = {WHOLE: module}
    for name, part in module.named_modules():
        site = _UNFIT.sub("_", renamed(name)) if name else ""
        if site in found:
            raise UserError(
                f"rename: two modules of the candidate become {site}",
                found=name,
                expected="names that are different",
                do="make the rules more exact, such as with ^ and $",
            )
        if site:
            found[site] = part
    return found


@dataclass(frozen=True)
class Leaf:
    """A tensor of an output, and the keys that lead to it."""

    path: tuple[Any, ...]
    value: Any


def leaves(output: Any, path: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """Every value in tuples, lists, mappings and dataclasses, in their order; None is no value."""
    if isinstance(output, Mapping):
        for key, value in output.items():
            yield from leaves(value, (*path, key))
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from leaves(value, (*path, index))
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from leaves(getattr(output, field.name), (*path, field.name))
    elif output is not None:
        yield Leaf(path, output)


def is_comparable(value: Any) -> bool:
    """Whether a value is a tensor or a number."""
    return isinstance(value, Tensor | np.ndarray | np.generic | bool | int | float | complex)


def sites_of(site: str, output: Any) -> dict[str, Leaf]:
    """The tensors of a module's output, by their sites.

    A sole tensor is called as its module, and so is the first one of a tuple or list. Another one has its keys behind
    a colon: `attn:1`, `encoder:last_hidden_state`.
    """
    found = [leaf for leaf in leaves(output) if is_comparable(leaf.value)]
    first = isinstance(output, list | tuple) and bool(found) and len(found[0].path) == 1
    named = {}
    for number, leaf in enumerate(found):
        keys = _UNFIT.sub("_", ".".join(map(str, leaf.path)))
        named[site if len(found) == 1 or (first and number == 0) else f"{site}:{keys}"] = leaf
    return named


def uncompared(output: Any) -> list[str]:
    """The types of what an output holds besides tensors, numbers and texts."""
    others = (leaf.value for leaf in leaves(output) if not is_comparable(leaf.value))
    return [type(value).__name__ for value in others if not isinstance(value, str)]


def texts_of(output: Any) -> list[str]:
    """The texts that an output holds."""
    return [leaf.value for leaf in leaves(output) if isinstance(leaf.value, str)]


def put(output: Any, path: tuple[Any, ...], value: Tensor) -> Any:
    """`output` with `value` in the place that `path` leads to; `output` itself stays what it is."""
    if not path:
        return value.to(output) if isinstance(output, Tensor) else value
    key, *rest = path
    if isinstance(output, Mapping):
        changed: Any = output.copy()  # type: ignore[attr-defined]  # every mapping that a module returns has it
        changed[key] = put(output[key], tuple(rest), value)
        return changed
    if isinstance(output, list | tuple):
        items = [put(item, tuple(rest), value) if index == key else item for index, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return dataclasses.replace(output, **{key: put(getattr(output, key), tuple(rest), value)})
