"""Finding the official package: whether it is installed, and whether it is the revision that was tested."""

import functools
import hashlib
import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch._dynamo.config

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings

TESTED_REVISION = "208c909824d906bf441122b7c40b9b4e1050d7c3"
TESTED_SOURCES = "a10f9941627d2eabd1c4cb9837df1318b8c62a426785f4298131627b8f6895ba"
UNTESTED = "untested-revision"
# Without its own dependencies: they pin a torch of their own, in place of the one that this project pins.
INSTALL = (
    f'pip install --no-deps "world_engine @ git+https://github.com/Overworldai/world_engine@{TESTED_REVISION}" '
    '&& pip install "tensordict>=0.10" "rotary-embedding-torch>=0.8.8" omegaconf'
)


@dataclass(frozen=True)
class Package:
    """The imported package.

    `omegaconf` is what it reads configs with, `compiler` what it changed of torch.compile's settings when it was
    imported, `sources` the digest of its files.
    """

    engine: ModuleType
    model: ModuleType
    patches: ModuleType
    autoencoder: ModuleType
    inference_autoencoder: ModuleType
    omegaconf: ModuleType
    compiler: Mapping[str, Any]
    sources: str

    @property
    def version(self) -> str:
        """The tested revision by its commit; another one by the digest of its sources."""
        if self.sources == TESTED_SOURCES:
            return f"world_engine {TESTED_REVISION}"
        return f"world_engine, not the tested revision (sources sha256 {self.sources})"


def import_package(*, untested: bool = False) -> Package:
    """The installed package, imported without leaving a trace in the process's settings.

    Raises UserError where it is not installed, where a package that it needs is not, and, unless `untested`, where its
    sources are not those of the tested revision.
    """
    sources = sources_digest(_folder())
    if sources != TESTED_SOURCES and not untested:
        raise UserError(
            "world_engine is installed, but not the revision that was tested",
            found=f"sources with sha256 {sources}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{INSTALL}; or name the implementation world-engine+{UNTESTED} to run it all the same",
        )
    return _imported(sources)


@functools.cache
def _imported(sources: str) -> Package:
    """Cached, because only the first import changes settings."""
    # Its decorators ask for a GPU's autocast when they are defined, which torch without a GPU warns of.
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        before = torch._dynamo.config.get_config_copy()
        engine = _module("world_engine.world_engine")
        after = torch._dynamo.config.get_config_copy()
        return Package(
            engine=engine,
            model=_module("world_engine.model"),
            patches=_module("world_engine.patch_model"),
            autoencoder=_module("world_engine.ae_nn"),
            inference_autoencoder=_module("world_engine.ae"),
            omegaconf=_module("omegaconf"),
            compiler={name: value for name, value in after.items() if value != before[name]},
            sources=sources,
        )


def sources_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the Python files below `folder`, line endings aside."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def _folder() -> Path:
    """Where the installed package lies."""
    spec = importlib.util.find_spec("world_engine")
    # A folder that merely bears the name, in the current directory, has no origin.
    if spec is None or spec.origin is None:
        raise UserError(
            "the official package world_engine is not installed",
            found="no module world_engine",
            expected=f"world_engine at revision {TESTED_REVISION}, the tested one",
            do=INSTALL,
        )
    return Path(spec.origin).parent


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            "world_engine is installed, but something that it needs is not",
            found=str(error),
            expected=f"what revision {TESTED_REVISION} imports",
            do=INSTALL,
        ) from error
