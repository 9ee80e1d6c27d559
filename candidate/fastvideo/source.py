"""FastVideo's sources: where they lie, whether they are the tested ones, and an import of the model's files only.

The package's `__init__` starts its whole stack (video generator, ray, torchvision, pipelines, GPU discovery). The world
model and the autoencoder need none of it, so `imported()` replaces three modules and sets one variable:

- `fastvideo`: an empty package with the real path. Its modules are found, and its `__init__` does not run.
- `fastvideo.platforms`: the same, because it looks for GPUs. It has the port's own `AttentionBackendEnum`. Its
  `current_platform` is the port's own CPU platform on every device: a linear layer only asks it whether this is a TPU.
- `fastvideo.utils`: only `StoreBoolean`, a command line helper that the autoencoder's config imports and never calls.
- The environment variable FASTVIDEO_CONFIGURE_LOGGING=0. Without it the import redirects the root logger to standard
  output.

`fastvideo.distributed` is imported unchanged. Nothing of it is started, and no layer of this model uses it.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings

PACKAGE = "fastvideo"
TESTED_REVISION = "12c99dd42dbabc3ca27e1a26ab460e02f15e989b"
UNTESTED = "untested-revision"
# Without dependencies: those that the model needs are installed already, and FastVideo pins another torch.
PIP_LINE = f'pip install --no-deps "fastvideo @ git+https://github.com/hao-ai-lab/FastVideo@{TESTED_REVISION}"'
# The files whose code computes, in the order in which they are digested.
_COMPUTING = (
    "layers/linear.py",
    "layers/mlp.py",
    "models/dits/waypoint_transformer.py",
    "models/vaes/world_engine_vae.py",
)
TESTED_SOURCES = "6acbd3a70816a1a243fa72b034e8c0d71729d4ab157c6556c2c5460d06b249a8"


@dataclass(frozen=True)
class PortModules:
    """The port's modules, imported."""

    transformer: Any
    autoencoder: Any
    release: str


def folder() -> Path:
    """The folder of the package `fastvideo`, which is not imported. Raises UserError where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    # A folder of that name in the current directory, without a package in it, has no origin.
    if spec is None or spec.origin is None:
        raise _unusable(f"no package {PACKAGE}")
    return Path(spec.origin).parent


def sources_digest(package: Path, computing: Iterable[str] = _COMPUTING) -> str:
    """SHA-256 over the files of `package` that compute, line endings aside; an absent one counts as empty."""
    digest = hashlib.sha256()
    for file in (package / name for name in computing):
        digest.update(file.read_bytes().replace(b"\r\n", b"\n") if file.is_file() else b"")
    return digest.hexdigest()


def check_revision(package: Path) -> None:
    """Raise UserError where the files of `package` that compute are not those of TESTED_REVISION."""
    if (found := sources_digest(package)) != TESTED_SOURCES:
        raise UserError(
            "FastVideo is installed, but not the revision that was tested",
            found=f"sources with sha256 {found}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{PIP_LINE}; or name the implementation fastvideo+{UNTESTED} to run it all the same",
        )


@contextmanager
def imported(package: Path) -> Iterator[PortModules]:
    """The modules of the port in `package`, while the context is open. Build its models inside.

    Afterwards `sys.modules` and the settings of the process are as they were: a process that uses FastVideo itself
    imports its own. Raises UserError where the package does not have a name used here.
    """
    aside = {name: sys.modules.pop(name) for name in _modules()}
    # The port imports torch's compiler, and some modules of the compiler warn when they are imported.
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        os.environ["FASTVIDEO_CONFIGURE_LOGGING"] = "0"
        try:
            yield _import(package)
        finally:
            for name in _modules():
                del sys.modules[name]
            sys.modules.update(aside)


def _import(package: Path) -> PortModules:
    try:
        _stand_in(PACKAGE, package)
        _stand_in(f"{PACKAGE}.utils", None, StoreBoolean=object)
        platforms = _stand_in(f"{PACKAGE}.platforms", package / "platforms")
        interface: Any = importlib.import_module(f"{PACKAGE}.platforms.interface")
        cpu: Any = importlib.import_module(f"{PACKAGE}.platforms.cpu")
        vars(platforms).update(AttentionBackendEnum=interface.AttentionBackendEnum, current_platform=cpu.CpuPlatform())
        version: Any = importlib.import_module(f"{PACKAGE}.version")
        return PortModules(
            transformer=importlib.import_module(f"{PACKAGE}.models.dits.waypoint_transformer"),
            autoencoder=importlib.import_module(f"{PACKAGE}.models.vaes.world_engine_vae"),
            release=version.__version__,
        )
    except (ImportError, AttributeError) as error:
        raise _unusable(f"{package}: {error}") from error


def _stand_in(name: str, path: Path | None, **contents: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    if path is not None:
        module.__path__ = [str(path)]
    sys.modules[name] = module
    return module


def _modules() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]


def _unusable(found: str) -> UserError:
    return UserError(
        "FastVideo's Waypoint port cannot be used",
        found=found,
        expected=f"FastVideo at the tested revision {TESTED_REVISION}",
        do=PIP_LINE,
    )
