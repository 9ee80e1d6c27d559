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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from waypoint_parity.candidate.fastvideo.source import PACKAGE, UNTESTED, in_its_place, sources_digest, stand_in
from waypoint_parity.candidate.wan_fastvideo.source import INSTALL, TESTED_REVISION, folder, unusable
from waypoint_parity.harness.errors import UserError

# The files whose code computes.
_COMPUTING = (
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
)
TESTED_SOURCES = "a0ead56b3e9e90c4068de55cc23f3014dcdd67e1e5b5eaa241bdb26ddb0519b8"
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

    Afterwards `sys.modules` and the settings of the process are as they were. Raises UserError where it, or something
    that it needs, is not installed, and, unless `untested`, where it is not the tested revision.
    """
    package = folder()
    digest = sources_digest(package, _COMPUTING)
    if digest != TESTED_SOURCES and not untested:
        raise UserError(
            "FastVideo is installed, but not the revision whose causal Wan was tested",
            found=f"sources with sha256 {digest}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{INSTALL}; or name the implementation causal-wan-fastvideo+{UNTESTED} to run it all the same",
        )
    tested = f"commit {TESTED_REVISION[:9]}"
    with in_its_place():
        yield _import(package, tested if digest == TESTED_SOURCES else f"not the tested revision (sha256 {digest})")


def _import(package: Path, version: str) -> PortModules:
    try:
        stand_in(PACKAGE, package)
        stand_in(
            f"{PACKAGE}.utils",
            None,
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
        raise unusable(f"{package}: {error}") from error
    return PortModules(**modules, version=f"FastVideo {release.__version__}, {version}")


def _resolved(name: str) -> Any:
    """The object that has a dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
