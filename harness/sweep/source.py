"""Code as a digest: what a result depends on besides its inputs.

Read off the source, without running it: a module, and every module that it imports anywhere, also inside a function.
What an installed distribution brought counts by the distribution's version.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from waypoint_parity.harness.run import registry

# Where distributions lie: in this environment, and in others that it sees (the system's, a user's).
_INSTALLED = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")} | {
    Path(entry).resolve() for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")
}


def implementation_digest(implementation: str) -> str:
    """SHA-256 over the code of the adapter that `implementation` names, options left out, and of all that it imports.

    A library that it loads by path, or a file that it reads, counts only where its class has a content_digest(). Raises
    UserError where there is no such implementation.
    """
    name, _ = registry.split_options(implementation)
    found = registry.find(name)
    content = getattr(found, "content_digest", str)()
    return module_digest(found.__module__) + content


@cache
def module_digest(module: str) -> str:
    """SHA-256 over the code of a module and of all that it imports."""
    hasher = hashlib.sha256()
    pending, known = [module], {module}
    while pending:
        name = pending.pop()
        if _is_installed(name):
            hasher.update(f"{_distribution(name)}\n".encode())
        elif (path := _source(name)) is not None:
            content = path.read_bytes()
            hasher.update(f"{name}\n".encode() + content)
            found = sorted(set(_imported(path, name, content)) - known)
            known.update(found)
            pending += found
    return hasher.hexdigest()


def _source(module: str) -> Path | None:
    """The Python file of a module; None for one of the standard library, and for what is no module."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    loaded = sys.modules.get(module)
    try:
        origin = loaded.__file__ if loaded is not None else _origin(module)
    except Exception:  # finding a module runs the packages above it, which may raise anything
        return None
    return Path(origin).resolve() if origin and origin.endswith(".py") else None


def _origin(module: str) -> str | None:
    spec = importlib.util.find_spec(module)
    return None if spec is None else spec.origin


@cache
def _is_installed(module: str) -> bool:
    """Whether a distribution brought it; asked of the package at the top, which is found without running anything."""
    path = _source(module.partition(".")[0])
    return path is not None and any(path.is_relative_to(folder) for folder in _INSTALLED)


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _distribution(module: str) -> str:
    """The distributions that brought a module, with their versions."""
    names = sorted(set(_distributions().get(module.partition(".")[0], [])))
    return ", ".join(f"{name} {version(name)}" for name in names) or module


def _imported(path: Path, module: str, content: bytes) -> Iterator[str]:
    """Every module that a source file may import, the packages above it too, since importing it runs those."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if package:
        yield package
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield base
            # In `from a import b` also b may be a module.
            if not _is_installed(base):
                yield from (f"{base}.{alias.name}" for alias in node.names)
