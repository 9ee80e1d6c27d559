"""Implementations by name: registered entry points, a file, or a module."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from waypoint_parity.harness.errors import EngineError, UserError, listed
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.engine import checked_description, checked_sites, engine_works, name_of
from waypoint_parity.harness.run.neighbours import Neighbours, among, neighbours
from waypoint_parity.harness.run.reads import listening

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

GROUP = "waypoint_parity.implementations"
METHODS = ("describe", "sites", "session")


def registered() -> dict[str, EntryPoint]:
    """Every implementation that an installed distribution registers under GROUP, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(
    implementation: str,
    checkpoint: "Checkpoint",
    numerics: Numerics,
    *,
    methods: Sequence[str] = METHODS,
    **given: Any,
) -> Adapter:
    """The adapter that `implementation` names, loaded; `name+option` asks for numerics of the implementation's own.

    Of `numerics.options`, which hold for a whole run, it gets those that it knows; and what else is `given`.

    Raises UserError where there is no such implementation, for an option that it does not have, and for sites that
    cannot be watched; EngineError where it fails.
    """
    name, options = split_options(implementation)
    adapter = find(name, methods)
    available: tuple[str, ...] = getattr(adapter, "OPTIONS", ())
    if unknown := [option for option in options if option not in available]:
        raise UserError(
            f"{implementation}: {name} has no such option",
            found=listed(unknown),
            expected=f"one of {listed(list(available))}" if available else "no option",
            do=f"leave it out, or correct it as in {name}+{available[0]}" if available else "leave it out",
        )
    options += [option for option in numerics.options if option in available and option not in options]
    with engine_works(name_of(adapter), lambda: "while it was loaded"), listening():
        loaded = adapter(checkpoint, dataclasses.replace(numerics, options=tuple(options)), **given)
    checked_sites(loaded, checkpoint.family)
    checked_description(loaded)
    return loaded


def split_options(implementation: str) -> tuple[str, list[str]]:
    """The name and the options of `name+option+option`. What stands behind `name:` of a registered one is no option."""
    if _argued(implementation) is not None:
        return implementation, []
    # A path may have a "+" of its own.
    location, colon, rest = implementation.rpartition(":")
    name, *options = rest.split("+")
    return location + colon + name, options


def _argued(implementation: str) -> tuple[EntryPoint, str] | None:
    """The registered implementation and its argument, of `name:argument`; None where it is no such."""
    name, colon, argument = implementation.partition(":")
    point = registered().get(name) if colon else None
    return None if point is None else (point, argument)


@listening()
def find(implementation: str, methods: Sequence[str] = METHODS) -> type[Adapter]:
    """The adapter class that `implementation` names.

    Accepted are a registered name, `path/to/file.py:ClassName` and `package.module:ClassName`; and `name:argument` of
    a registered class that takes one, as it says by ARGUMENT. Raises UserError where there is none, and where the class
    lacks a method of the protocol.
    """
    argued = _argued(implementation)
    location, colon, class_name = implementation.rpartition(":")
    if argued is not None:
        module, class_name = _from_name(argued[0].module), argued[0].attr
    elif colon:
        module = module_at(location)
    else:
        points = registered()
        if implementation not in points:
            raise _unknown(implementation, f"no registered name (there are {listed(sorted(points), most=len(points))})")
        module, class_name = _from_name(points[implementation].module), points[implementation].attr
    found = getattr(module, class_name, None)
    wanted, argument = getattr(found, "ARGUMENT", None), argued[1] if argued is not None else ""
    if argued is not None and wanted is None:
        raise _unknown(implementation, f"{argued[0].name} takes nothing behind its name")
    if wanted is not None and not argument:
        raise _unknown(implementation, f"nothing behind its name, where {wanted} belongs")
    if not inspect.isclass(found):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise _unknown(implementation, f"no class {class_name} in {module.__name__} (it has {listed(classes)})")
    lacking = [method for method in methods if not callable(getattr(found, method, None))]
    # Those that a family's base class leaves to the class.
    lacking += sorted(getattr(found, "__abstractmethods__", ()))
    if lacking:
        raise UserError(
            f"{implementation}: is not an adapter",
            found=f"a class without {listed(lacking)}",
            expected=f"the methods {listed(list(methods))} of harness.run.adapter.Adapter",
            do="add them; docs/engine.md has a complete example. An engine in another process runs whole sessions only",
        )
    if argued is None and location.endswith(".py"):
        return among(cast(type[Adapter], found), beside(Path(location)))
    bound = {"argument": argument, "CALLED": implementation, "__module__": found.__module__}
    return cast(type[Adapter], found if wanted is None else type(found.__name__, (found,), bound))


def module_at(location: str) -> ModuleType:
    """The module in a file `path/to/file.py`, or of a full name. Raises UserError where there is none."""
    return _from_file(Path(location)) if location.endswith(".py") else _from_name(location)


def _from_file(path: Path) -> ModuleType:
    # Under its path: under its stem a file called `candidate.py` or `json.py` would take that package's place.
    name = str(path.resolve())
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise _unknown(str(path), "no such file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    with engine_works(str(path), lambda: "while it was imported"), beside(path).seen():
        spec.loader.exec_module(module)
    return module


def within(implementation: str) -> AbstractContextManager[None]:
    """While open, imports find what the code of the implementation would find."""
    location = implementation.rpartition(":")[0]
    in_file = _argued(implementation) is None and location.endswith(".py")
    return beside(Path(location)).seen() if in_file else nullcontext()


def beside(path: Path) -> Neighbours:
    """What lies beside the file of an adapter, and is found first when its code imports."""
    return neighbours(path.resolve().parent)


def _from_name(name: str) -> ModuleType:
    if not name or name.startswith("."):
        raise _unknown(name or "no module", "not a full module name")
    try:
        with engine_works(name, lambda: "while it was imported"):
            return importlib.import_module(name)
    except EngineError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise _unknown(name, str(error.__cause__)) from error
        raise


def _unknown(implementation: str, found: str) -> UserError:
    return UserError(
        f"{implementation}: no such implementation",
        found=found,
        expected="a registered name, path/to/file.py:ClassName or package.module:ClassName",
        do="correct the name; `waypoint-parity info` lists the registered ones",
    )
