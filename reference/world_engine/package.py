"""Finding the official package: whether it is installed, and whether it is one of the revisions that were tested."""

import functools
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
from waypoint_parity.harness.families.waypoint.config import FIRST, SECOND
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.harness.run.sources import sources_digest

UNTESTED = "untested-revision"
TESTED_REVISION = "208c909824d906bf441122b7c40b9b4e1050d7c3"
TAEHV_REVISION = "7dc60ec6601af2e668e31bc70acc4cb3665e4c22"
TAEHV_SOURCES = "bb2605ad02c225f3fad69407a7b79c3d4412dc63ef93de1e1e8c196003dfa05e"


@dataclass(frozen=True)
class Release:
    """Sources of the package that were tested.

    model_type: of the checkpoints that they drive here
    name: what a claim calls them
    sources: the digest of `files`, which are all Python files where none are named
    install: how to get them. Without their own dependencies: they pin a torch of their own, in place of the one that
        this project pins
    """

    model_type: str
    name: str
    sources: str
    install: str
    files: tuple[str, ...] = ()

    @property
    def is_waypoint_15(self) -> bool:
        """Whether the sources are of the second generation."""
        return self.model_type == SECOND

    def digest(self, folder: Path) -> str:
        """The digest of the package in `folder`, to be compared with `sources`."""
        return sources_digest(folder, self.files)


WAYPOINT_1 = Release(
    model_type=FIRST,
    name=f"revision {TESTED_REVISION}",
    sources="a10f9941627d2eabd1c4cb9837df1318b8c62a426785f4298131627b8f6895ba",
    install=f'pip install --no-deps "world_engine @ git+https://github.com/Overworldai/world_engine@{TESTED_REVISION}" '
    '&& pip install "tensordict>=0.10" "rotary-embedding-torch>=0.8.8" omegaconf',
)
# Tested as single files, whose commit is not known: those whose code a session of Waypoint 1.5 runs.
WAYPOINT_15 = Release(
    model_type=SECOND,
    name="of Waypoint 1.5, by its files that compute",
    sources="afb86e8c563484491a2d1b622d4bcd930d4ba8bbca9e52beb42464fc5fa5154a",
    install='pip install --no-deps "world_engine @ git+https://github.com/Overworldai/world_engine" '
    f'"taehv @ git+https://github.com/madebyollin/taehv@{TAEHV_REVISION}" && pip install "tensordict>=0.10" omegaconf',
    files=(
        "ae.py",
        "model/attn.py",
        "model/base_model.py",
        "model/kv_cache.py",
        "model/nn.py",
        "model/world_model.py",
        "patch_model.py",
        "world_engine.py",
    ),
)
RELEASES = {release.model_type: release for release in (WAYPOINT_1, WAYPOINT_15)}


@dataclass(frozen=True)
class Package:
    """The imported package.

    `release` is the tested one that it is, or is taken for; `omegaconf` is what it reads configs with, `taehv` the
    module of Waypoint 1.5's autoencoder, `compiler` what it changed of torch.compile's settings when it was imported,
    `sources` the digest of its files.
    """

    release: Release
    engine: ModuleType
    model: ModuleType
    base_model: ModuleType
    patches: ModuleType
    autoencoder: ModuleType
    inference_autoencoder: ModuleType
    taehv: Any
    omegaconf: ModuleType
    compiler: Mapping[str, Any]
    sources: str

    @property
    def version(self) -> str:
        """The tested revision by its name; another one by the digest of its sources."""
        if self.sources == self.release.sources:
            return f"world_engine {self.release.name.removeprefix('revision ')}"
        return f"world_engine, not the tested revision (sources sha256 {self.sources})"


def import_package(model_type: str = FIRST, *, untested: bool = False) -> Package:
    """The installed package, imported without leaving a trace in the process's settings.

    Raises UserError where it is not installed, where a package that it needs is not, where it cannot drive checkpoints
    of `model_type`, and, unless `untested`, where its sources are not those that were tested.
    """
    wanted = RELEASES[model_type]
    folder = _folder(wanted)
    sources = wanted.digest(folder)
    others = [release for release in RELEASES.values() if release is not wanted]
    if other := next((release for release in others if release.digest(folder) == release.sources), None):
        raise _other_generation(wanted, f"the sources {other.name}, which drive {other.model_type} here")
    if sources != wanted.sources and not untested:
        raise UserError(
            "world_engine is installed, but not the revision that was tested",
            found=f"sources with sha256 {sources}",
            expected=f"{wanted.name} (sources with sha256 {wanted.sources})",
            do=f"{wanted.install}; or name the implementation world-engine+{UNTESTED} to run it all the same",
        )
    if wanted.is_waypoint_15:
        _check_taehv(untested=untested)
    package = _imported(wanted, sources)
    if hasattr(package.inference_autoencoder, "ChunkedStreamingTAEHV") != wanted.is_waypoint_15:
        raise _other_generation(wanted, "sources of another generation, by their autoencoder")
    return package


def installed_release() -> Release | None:
    """The tested release that is installed; None where there is none, or another one."""
    try:
        return next((each for each in RELEASES.values() if each.digest(_folder(each)) == each.sources), None)
    except UserError:
        return None


@functools.cache
def _imported(release: Release, sources: str) -> Package:
    """Cached, because only the first import changes settings."""
    # Its decorators ask for a GPU's autocast when they are defined, which torch without a GPU warns of.
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        before = torch._dynamo.config.get_config_copy()
        engine = _module("world_engine.world_engine", release)
        after = torch._dynamo.config.get_config_copy()
        return Package(
            release=release,
            engine=engine,
            model=_module("world_engine.model", release),
            base_model=_module("world_engine.model.base_model", release),
            patches=_module("world_engine.patch_model", release),
            autoencoder=_module("world_engine.ae_nn", release),
            inference_autoencoder=_module("world_engine.ae", release),
            taehv=_module("taehv", release) if release.is_waypoint_15 else None,
            omegaconf=_module("omegaconf", release),
            compiler={name: value for name, value in after.items() if value != before[name]},
            sources=sources,
        )


def _check_taehv(*, untested: bool) -> None:
    """Raise UserError where the autoencoder's package is not installed, or not the tested revision."""
    spec = importlib.util.find_spec("taehv")
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    sources = None if file is None else sources_digest(file.parent, (file.name,))
    if sources is None or (sources != TAEHV_SOURCES and not untested):
        raise UserError(
            "world_engine of Waypoint 1.5 needs taehv, its autoencoder",
            found="no module taehv" if sources is None else f"sources with sha256 {sources}",
            expected=f"taehv at revision {TAEHV_REVISION} (sources with sha256 {TAEHV_SOURCES})",
            do=f'pip install --no-deps "taehv @ git+https://github.com/madebyollin/taehv@{TAEHV_REVISION}"',
        )


def _other_generation(wanted: Release, found: str) -> UserError:
    return UserError(
        f"the installed world_engine is not the one that drives {wanted.model_type}",
        found=found,
        expected=f"{wanted.name} (sources with sha256 {wanted.sources}), for a checkpoint of {wanted.model_type}",
        do=f"{wanted.install}; in an environment of its own, because both are called world_engine",
    )


def _folder(wanted: Release) -> Path:
    """Where the installed package lies."""
    spec = importlib.util.find_spec("world_engine")
    # A folder that merely bears the name, in the current directory, has no origin.
    if spec is None or spec.origin is None:
        raise UserError(
            "the official package world_engine is not installed",
            found="no module world_engine",
            expected=f"world_engine {wanted.name}, the tested one",
            do=wanted.install,
        )
    return Path(spec.origin).parent


def _module(name: str, release: Release) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            "world_engine is installed, but something that it needs is not",
            found=str(error),
            expected=f"what it imports at {release.name}",
            do=release.install,
        ) from error
