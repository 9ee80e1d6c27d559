"""FastVideo's sources, as its causal Wan needs them: whether they are the tested ones, and an import of them.

The package's `__init__` starts its whole stack (video generator, ray, torchvision, GPU discovery). So `imported()` puts
these in its place, for as long as it is open:

- `fastvideo`, `fastvideo.platforms`: empty packages with the real paths. The only platform is the port's own for a CPU.
  That names no kernel for attention; here it names the port's own for scaled_dot_product_attention, on every device.
- `fastvideo.utils`: the four names that these modules import from it, with the same meaning.
- The environment variable FASTVIDEO_CONFIGURE_LOGGING=0. Without it the import redirects the root logger to standard
  output.

No process group is started: the number of processes that share a sequence is 1.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from waypoint_parity.candidate.wan_fastvideo.source import PACKAGE
from waypoint_parity.candidate.wan_fastvideo.source import TESTED as WAN
from waypoint_parity.harness.run.sources import in_their_place, stand_in

TESTED = replace(
    WAN,
    implementation="causal-wan-fastvideo",
    files=(
        "attention/backends/sdpa.py",
        "attention/layer.py",
        "layers/layernorm.py",
        "layers/linear.py",
        "layers/mlp.py",
        "layers/rotary_embedding.py",
        "layers/visual_embedding.py",
        "models/dits/causal_wanvideo.py",
        "models/dits/wanvideo.py",
        "models/schedulers/scheduling_self_forcing_flow_match.py",
        "models/utils.py",
    ),
    digest="b9f9b1e60957328d9d13e6aa923bb33cda967b12e5fbbab954e5027f7cdb5901",
)
_ATTENTION = f"{PACKAGE}.attention.backends.sdpa.SDPABackend"


@dataclass(frozen=True)
class PortModules:
    """The port's modules. `version` names the tested revision, or another one by the digest of its sources."""

    causal: Any
    wan: Any
    configs: Any
    context: Any
    scheduler: Any
    conversion: Any
    rotation: Any
    version: str


@contextmanager
def imported(*, untested: bool = False) -> Iterator[PortModules]:
    """The modules of the port, while the context is open. Build its models inside.

    Raises UserError where it, or something that it needs, is not installed, and, unless `untested`, where it is not the
    tested revision.
    """
    package = TESTED.package(PACKAGE)
    version = TESTED.version(package, untested=untested)
    with in_their_place(PACKAGE):
        os.environ["FASTVIDEO_CONFIGURE_LOGGING"] = "0"
        yield _import(package, version)


def _import(package: Path, version: str) -> PortModules:
    try:
        stand_in(PACKAGE, package)
        stand_in(
            f"{PACKAGE}.utils",
            StoreBoolean=object,
            STR_BACKEND_ENV_VAR="FASTVIDEO_ATTENTION_BACKEND",
            get_compute_dtype=torch.get_default_dtype,
            resolve_obj_by_qualname=_resolved,
        )
        platforms = stand_in(f"{PACKAGE}.platforms", package / "platforms")
        interface: Any = importlib.import_module(f"{PACKAGE}.platforms.interface")
        cpu: Any = importlib.import_module(f"{PACKAGE}.platforms.cpu")
        cpu.CpuPlatform.get_attn_backend_cls = classmethod(lambda cls, *_: _ATTENTION)
        vars(platforms).update(AttentionBackendEnum=interface.AttentionBackendEnum, current_platform=cpu.CpuPlatform())
        names = {
            "causal": "models.dits.causal_wanvideo",
            "wan": "models.dits.wanvideo",
            "configs": "configs.models.dits.wanvideo",
            "context": "forward_context",
            "scheduler": "models.schedulers.scheduling_self_forcing_flow_match",
            "conversion": "models.utils",
            "rotation": "layers.rotary_embedding",
        }
        modules = {name: importlib.import_module(f"{PACKAGE}.{path}") for name, path in names.items()}
        release: Any = importlib.import_module(f"{PACKAGE}.version")
        modules["causal"].__dict__["get_sp_world_size"] = lambda: 1
    except (ImportError, AttributeError) as error:
        raise TESTED.unusable(f"{package}: {error}") from error
    return PortModules(**modules, version=f"{release.__version__}, {version}")


def _resolved(name: str) -> Any:
    """The object that has a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
