"""What lies beside the file of an adapter, and what it puts on the path of modules: its own, as in `python FILE`.

Every folder with such files has its own neighbours: two adapters that both import `engine` get the one that lies beside
each. They get it while their code runs: when the file is read, and in the methods that drive a session.
"""

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from waypoint_parity.harness.run.adapter import Adapter

_OURS = __name__.partition(".")[0]
_METHODS = ("__init__", "describe", "sites")


class Neighbours:
    """The modules of one folder: those found beside its files, and where their code has looked further."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What comes before everything else on the path.
        self.path = [str(folder)]
        self.modules: dict[str, ModuleType] = {}
        # Others of the same names, while these are in their place.
        self.aside: dict[str, ModuleType] = {}

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Imports find them first."""
        with _lock:
            _open.append(self)
            _switch(self)
        try:
            yield
        finally:
            with _lock:
                # Sessions that are left in the middle of a pass need not end in the order in which they began.
                del _open[len(_open) - 1 - _open[::-1].index(self)]
                _switch(_open[-1] if _open else None)

    def beside(self) -> set[str]:
        """The names of modules that lie in the folder, those of the standard library left out."""
        names = {path.stem for path in self._folder.glob("*.py")}
        names |= {path.parent.name for path in self._folder.glob("*/__init__.py")}
        return names - set(sys.stdlib_module_names) - {_OURS}

    def owns(self, name: str) -> bool:
        """Whether a loaded module was found on its part of the path, itself or the package that it is in."""
        module = sys.modules.get(name.partition(".")[0])
        if module is None or module.__name__ == _OURS:
            return False
        packages = [str(Path(place).parent) for place in getattr(module, "__path__", ())]
        file = getattr(module, "__file__", None)
        return not {*packages, *([] if packages or file is None else [str(Path(file).parent)])}.isdisjoint(self.path)


def neighbours(folder: Path) -> Neighbours:
    """The one set of neighbours that a folder has in this process."""
    return _known.setdefault(folder, Neighbours(folder))


def among(found: type[Adapter], those: Neighbours) -> type[Adapter]:
    """`found` as a class whose methods see these neighbours."""
    methods: dict[str, Any] = {name: _seeing(getattr(found, name), those) for name in _METHODS if hasattr(found, name)}
    session = getattr(found, "session", None)
    if callable(session):
        methods["session"] = _stepwise(session, those)
    names = {"__module__": found.__module__, "__qualname__": found.__qualname__, "__doc__": found.__doc__}
    return type(found.__name__, (found,), names | methods)


def _seeing(method: Callable[..., Any], those: Neighbours) -> Callable[..., Any]:
    @functools.wraps(method)
    def seeing(*args: Any, **kwargs: Any) -> Any:
        with those.seen():
            return method(*args, **kwargs)

    return seeing


def _stepwise(session: Callable[..., Any], those: Neighbours) -> Callable[..., Any]:
    """A session that sees them in every step, and not in between."""

    @functools.wraps(session)
    def stepwise(*args: Any, **kwargs: Any) -> Any:
        with those.seen():
            steps = session(*args, **kwargs)
        return _Steps(steps, those) if isinstance(steps, Iterator) else steps

    return stepwise


class _Steps(Iterator[Any]):
    def __init__(self, steps: Iterator[Any], those: Neighbours) -> None:
        self._steps = steps
        self._those = those

    def __next__(self) -> Any:
        with self._those.seen():
            return next(self._steps)

    def close(self) -> None:
        """End a session that was begun."""
        with self._those.seen():
            getattr(self._steps, "close", lambda: None)()


_known: dict[Path, Neighbours] = {}
# Those whose code runs, the innermost last; and those that imports find now.
_open: list[Neighbours] = []
_now: list[Neighbours] = []
_before: list[str] = []
_loaded: set[str] = set()
_lock = threading.RLock()


def _switch(to: Neighbours | None) -> None:
    """Let imports find these neighbours, in place of those that they found."""
    current = _now.pop() if _now else None
    if current is not None and current is to:
        _now.append(current)
        return
    if current is not None:
        _take_leave(current)
    else:
        _before[:] = sys.path
    sys.path[:] = _before
    if to is not None:
        _bring_in(to)
        _now.append(to)


def _take_leave(of: Neighbours) -> None:
    """Remember what its code has brought, and put back what was in its place."""
    of.path += [place for place in sys.path if place not in _before and place not in of.path]
    of.modules |= {name: sys.modules[name] for name in sys.modules.keys() - _loaded if of.owns(name)}
    sys.modules.update(of.aside)
    of.aside = {}


def _bring_in(those: Neighbours) -> None:
    """Put its modules in their places: they stay there until others are wanted."""
    for others in _known.values():
        for name, module in others.modules.items():
            if others is not those and sys.modules.get(name) is module:
                del sys.modules[name]
    for name in those.beside():
        if name in sys.modules and not those.owns(name) and not _is_installed(sys.modules[name]):
            parts = [part for part in sys.modules if part == name or part.startswith(f"{name}.")]
            those.aside |= {part: sys.modules.pop(part) for part in parts}
    sys.modules.update(those.modules)
    sys.path[:0] = those.path
    importlib.invalidate_caches()
    _loaded.clear()
    _loaded.update(sys.modules)


def _is_installed(module: ModuleType) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in Path(getattr(module, "__file__", "") or "").parts)


def swapped_out() -> list[ModuleType]:
    """The modules of all neighbours, also of those that are not in their places now."""
    return [module for those in _known.values() for module in those.modules.values()]
