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

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waypoint_parity.harness.run.sources import Tested, in_their_place, stand_in

PACKAGE = "fastvideo"
_REVISION = "12c99dd42dbabc3ca27e1a26ab460e02f15e989b"
TESTED = Tested(
    called="FastVideo",
    implementation="fastvideo",
    revision=_REVISION,
    files=(
        "layers/linear.py",
        "layers/mlp.py",
        "models/dits/waypoint_transformer.py",
        "models/vaes/world_engine_vae.py",
    ),
    digest="681410e2edaeaee1f81c73f1cebf66372e8b4e5bc6fd24f4a68d78e9158d2af7",
    # Without dependencies: those that the model needs are installed already, and FastVideo pins another torch.
    install=f'pip install --no-deps "fastvideo @ git+https://github.com/hao-ai-lab/FastVideo@{_REVISION}"',
)


@dataclass(frozen=True)
class PortModules:
    """The port's modules, imported."""

    transformer: Any
    autoencoder: Any
    release: str


@contextmanager
def imported(package: Path) -> Iterator[PortModules]:
    """The modules of the port in `package`, while the context is open. Build its models inside.

    Raises UserError where the package does not have a name used here.
    """
    with in_their_place(PACKAGE):
        os.environ["FASTVIDEO_CONFIGURE_LOGGING"] = "0"
        yield _import(package)


def _import(package: Path) -> PortModules:
    try:
        stand_in(PACKAGE, package)
        stand_in(f"{PACKAGE}.utils", StoreBoolean=object)
        platforms = stand_in(f"{PACKAGE}.platforms", package / "platforms")
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
        raise TESTED.unusable(f"{package}: {error}") from error
