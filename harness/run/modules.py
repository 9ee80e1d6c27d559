"""The modules that an adapter drives, found by following its attributes."""

from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

# Adapter -> engine -> model is three steps; further away lie other people's objects.
_DEEPEST = 6
_LEAVES = (Tensor, type, ModuleType, FunctionType, str, bytes)


def modules_of(adapter: object) -> dict[str, nn.Module]:
    """Every outermost module that `adapter` reaches through attributes, mappings and sequences, by its path.

    An adapter whose modules lie elsewhere offers a method `modules()` that returns the mapping.
    """
    if isinstance(adapter, nn.Module):
        return {"": adapter}
    offered = getattr(adapter, "modules", None)
    return dict(offered()) if callable(offered) else dict(_walk(adapter, "", set(), 0))


def _walk(value: object, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, _LEAVES) or id(value) in seen or depth > _DEEPEST:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        yield path, value
        return
    for name, part in _parts(value):
        yield from _walk(part, f"{path}.{name}".removeprefix("."), seen, depth + 1)


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(index), part) for index, part in enumerate(value))
    else:
        yield from getattr(value, "__dict__", {}).items()
