"""The official package `wan`: where it lies, whether it is the tested one, and an import of what text-to-video needs.

The package's `__init__` starts the whole of it (image-to-video, CLIP, torchvision), and its text encoder asks for a GPU
when it is defined. So `imported()` puts these in the place of the package's own:

- `wan`, `wan.modules`, `wan.utils`, `wan.distributed`: empty packages with the real paths.
- `wan.modules.t5`: a module with the name that is imported and never called, T5EncoderModel.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from waypoint_parity.harness.run.sources import Tested, in_their_place, stand_in

PACKAGE = "wan"
_REVISION = "9737cba9c1c3c4d04b33fcad41c111989865d315"
TESTED = Tested(
    called="Wan2.1",
    implementation="wan-official",
    revision=_REVISION,
    files=(
        "modules/attention.py",
        "modules/model.py",
        "modules/vae.py",
        "text2video.py",
        "utils/fm_solvers_unipc.py",
    ),
    digest="bf534f53adc901709901e569ef4f5499f50a951a1295ff5828a6dc36caf03486",
    # It is no package that pip installs: its dependencies ask for a GPU.
    install=f"git clone https://github.com/Wan-Video/Wan2.1 && git -C Wan2.1 checkout {_REVISION}, put that folder on "
    "PYTHONPATH; pip install diffusers einops scipy tqdm",
)


@dataclass(frozen=True)
class Package:
    """The imported modules, and which revision they are of."""

    pipeline: Any
    model: Any
    autoencoder: Any
    version: str


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules of the package, while the context is open. Build its models inside.

    Raises UserError where the package, or something that it needs, is not installed, and, unless `untested`, where it
    is not the tested revision.
    """
    place = TESTED.package(PACKAGE)
    version = TESTED.version(place, untested=untested)
    with _packages(place):
        yield _import(place, version)


def text_encoder() -> Any:
    """The module with the official `T5Encoder`, of any revision; see docs/wan.md for what to compare it with.

    A default argument in it asks which GPU is in use. Where there is none, the answer is 0, and nobody uses it.
    """
    with _packages(TESTED.package(PACKAGE)), patch("torch.cuda.current_device", int):
        try:
            return importlib.import_module(f"{PACKAGE}.modules.t5")
        except ImportError as error:
            raise TESTED.unusable(str(error)) from error


@contextmanager
def _packages(place: Path) -> Iterator[None]:
    """With empty packages for the real ones."""
    with in_their_place(PACKAGE):
        for part in ("", "modules", "utils", "distributed"):
            stand_in(f"{PACKAGE}.{part}".removesuffix("."), place / part)
        yield


def _import(place: Path, version: str) -> Package:
    stand_in(f"{PACKAGE}.modules.t5", T5EncoderModel=None)
    try:
        return Package(
            pipeline=importlib.import_module(f"{PACKAGE}.text2video"),
            model=importlib.import_module(f"{PACKAGE}.modules.model"),
            autoencoder=importlib.import_module(f"{PACKAGE}.modules.vae"),
            version=version,
        )
    except (ImportError, AttributeError) as error:
        raise TESTED.unusable(f"{place}: {error}") from error
