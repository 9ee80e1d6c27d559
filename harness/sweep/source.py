"""Code as a digest: what a result depends on besides its inputs.

Read off the source, without running it: a module, and every module that it imports anywhere, also inside a function.
What an installed distribution brought counts by the distribution's version.
"""

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

from waypoint_parity.harness.run import registry

# What the folders of distributions are called, of this environment and of any other that it sees.
_FOLDERS = ("site-packages", "dist-packages")


def implementation_digest(implementation: str) -> str:
    """SHA-256 over the code of the adapter that `implementation` names, options left out, and of all that it imports.

    What it loads by other routes, and the files that it reads, are told after it ran (harness.sweep.loaded), or before
    by its class, where that has a content_digest(). Raises UserError where there is no such implementation.
    """
    name, _ = registry.split_options(implementation)
    found = registry.find(name)
    content = getattr(found, "content_digest", str)()
    with registry.within(name):
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
            hasher.update(os.fsencode(f"{name}\n") + content)
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
    return path is not None and (in_packages(path) or is_installed(path))


def in_packages(path: Path) -> bool:
    """Whether a file lies where distributions do."""
    return any(part in _FOLDERS for part in path.parts)


def is_installed(path: Path) -> bool:
    """Whether a distribution brought this file, of whatever environment; `path` without links."""
    return any(str(path) in _files(name) for name in _distributions_of(path))


def is_of_a_package(path: str) -> bool:
    """Whether a file that lies among distributions is in the folder, or is the module, of one of them."""
    parts = Path(path).parts
    place = max(index for index, part in enumerate(parts) if part in _FOLDERS)
    top = parts[place + 1].partition(".")[0] if len(parts) > place + 1 else ""
    return top in _distributions() or top.lower() in _names()


def _distributions_of(path: Path) -> set[str]:
    """The distributions that have a module called as the file, or as a folder above it."""
    called = {part.partition(".")[0] for part in path.parts}
    return {
        name for module in called for name in (*_distributions().get(module, ()), *_names().get(module, ())) if name
    }


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


@cache
def _names() -> dict[str, list[str]]:
    """Distributions by their own names: the libraries of one lie in NAME.libs."""
    return {name.replace("-", "_").lower(): [name] for names in _distributions().values() for name in names if name}


@cache
def _files(name: str) -> frozenset[str]:
    """The files of a distribution, those of an editable one left out: it lists none of its sources."""
    found = distribution(name)
    # Of its folder links are followed once, and not for each file.
    folder = os.path.realpath(str(found.locate_file("")))
    return frozenset(os.path.normpath(os.path.join(folder, file)) for file in found.files or ())


def _distribution(module: str) -> str:
    """The distributions that brought a module: their versions, and what each says of its files.

    A version alone would not do: an engine in the making is installed again and again under one.
    """
    names = sorted({name for name in _distributions().get(module.partition(".")[0], []) if name})
    return ", ".join(f"{name} {version(name)} {_contents(name)}" for name in names) or module


@cache
def _contents(name: str) -> str:
    return hashlib.sha256((distribution(name).read_text("RECORD") or "").encode()).hexdigest()


def _imported(path: Path, module: str, content: bytes) -> Iterator[str]:
    """Every module that a source file may import, the packages above it too, since importing it runs those."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if package:
        yield package
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):  # of another version of Python, or no source at all: it imports nothing here
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the package at the top
                continue
            yield base
            # In `from a import b` also b may be a module.
            if not _is_installed(base):
                yield from (f"{base}.{alias.name}" for alias in node.names)
