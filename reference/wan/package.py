"""The official package `wan`: where it lies, whether it is the tested one, and an import of what text-to-video needs.

The package's `__init__` starts the whole of it (image-to-video, CLIP, torchvision), and its text encoder asks for a GPU
when it is defined. So `imported()` puts these in the place of the package's own:

- `wan`, `wan.modules`, `wan.utils`, `wan.distributed`: empty packages with the real paths.
- `wan.modules.t5`: a module with the name that is imported and never called, T5EncoderModel.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.reference.sources import sources_digest

PACKAGE = "wan"
UNTESTED = "untested-revision"
TESTED_REVISION = "9737cba9c1c3c4d04b33fcad41c111989865d315"
# It is no package that pip installs: its dependencies ask for a GPU.
INSTALL = (
    f"git clone https://github.com/Wan-Video/Wan2.1 && git -C Wan2.1 checkout {TESTED_REVISION}, put that folder on "
    "PYTHONPATH; pip install diffusers einops scipy tqdm"
)
# The files whose code computes.
_COMPUTING = (
    "modules/attention.py",
    "modules/model.py",
    "modules/vae.py",
    "text2video.py",
    "utils/fm_solvers_unipc.py",
)
TESTED_SOURCES = "bf534f53adc901709901e569ef4f5499f50a951a1295ff5828a6dc36caf03486"


@dataclass(frozen=True)
class Package:
    """The imported modules, and the digest of the files that compute."""

    pipeline: Any
    model: Any
    autoencoder: Any
    sources: str

    @property
    def version(self) -> str:
        """The tested revision by its name; another one by the digest of its sources."""
        if self.sources == TESTED_SOURCES:
            return f"Wan2.1 {TESTED_REVISION[:7]}"
        return f"Wan2.1, not the tested revision (sources sha256 {self.sources})"


def folder() -> Path:
    """The folder of the package, which is not imported. Raises UserError where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    # A folder of that name in the current directory, without a package in it, has no origin.
    if spec is None or spec.origin is None:
        raise _unusable(f"no package {PACKAGE}")
    return Path(spec.origin).parent


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules of the package, while the context is open. Build its models inside.

    Afterwards `sys.modules` and the settings of the process are as they were. Raises UserError where the package, or
    something that it needs, is not installed, and, unless `untested`, where it is not the tested revision.
    """
    place = folder()
    sources = sources_digest(place, _COMPUTING)
    if sources != TESTED_SOURCES and not untested:
        raise UserError(
            "the official Wan2.1 is there, but not the revision that was tested",
            found=f"sources with sha256 {sources}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{INSTALL}; or name the implementation wan-official+{UNTESTED} to run it all the same",
        )
    with _packages(place):
        yield _import(place, sources)


def text_encoder() -> Any:
    """The module with the official `T5Encoder`, of any revision; see docs/wan.md for what to compare it with.

    A default argument in it asks which GPU is in use. Where there is none, the answer is 0, and nobody uses it.
    """
    with _packages(folder()), patch("torch.cuda.current_device", int):
        try:
            return importlib.import_module(f"{PACKAGE}.modules.t5")
        except ImportError as error:
            raise _unusable(str(error)) from error


@contextmanager
def _packages(place: Path) -> Iterator[None]:
    """With empty packages for the real ones; afterwards modules and settings are as they were."""
    aside = {name: sys.modules.pop(name) for name in _modules()}
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        try:
            for part in ("", "modules", "utils", "distributed"):
                _stand_in(f"{PACKAGE}.{part}".removesuffix("."), place / part)
            yield
        finally:
            for name in _modules():
                del sys.modules[name]
            sys.modules.update(aside)


def _import(place: Path, sources: str) -> Package:
    _stand_in(f"{PACKAGE}.modules.t5", None, T5EncoderModel=None)
    try:
        return Package(
            pipeline=importlib.import_module(f"{PACKAGE}.text2video"),
            model=importlib.import_module(f"{PACKAGE}.modules.model"),
            autoencoder=importlib.import_module(f"{PACKAGE}.modules.vae"),
            sources=sources,
        )
    except (ImportError, AttributeError) as error:
        raise _unusable(f"{place}: {error}") from error


def _stand_in(name: str, path: Path | None, **contents: object) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    if path is not None:
        module.__path__ = [str(path)]
    sys.modules[name] = module


def _modules() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]


def _unusable(found: str) -> UserError:
    return UserError(
        "the official code of Wan 2.1 cannot be used",
        found=found,
        expected=f"the package {PACKAGE} of Wan2.1 at the tested revision {TESTED_REVISION}",
        do=INSTALL,
    )
