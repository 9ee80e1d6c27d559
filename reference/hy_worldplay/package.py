"""The vendor's repository: where it lies, whether it is the tested one, and an import of its WAN-5B pipeline.

It is no package: its folders `wan`, `hyvideo` and those within `wan` are found as `models`, `distributed` and
`inference`, names that others have too. So `imported()` puts these in their place, and takes them away again:

- `hyvideo`, `models`, `inference`: empty packages with the real paths.
- `distributed.*`, `models.par_vae.tools`: modules with the names that are imported and, on one device, never called.
- `sageattention`: its kernel's contract by scaled_dot_product_attention, in the dtype of its inputs.
- `torch.compile`, which decorates a block: nothing is compiled.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.reference.sources import sources_digest

UNTESTED = "untested-revision"
TESTED_REVISION = "da2d0c26eb0edb647f56e164ffd966490eb75282"
INSTALL = (
    "git clone https://github.com/Tencent-Hunyuan/HY-WorldPlay && git -C HY-WorldPlay checkout "
    f'{TESTED_REVISION}, put that folder on PYTHONPATH; pip install "diffusers==0.42.1" transformers ftfy regex scipy'
)
_PIPELINE = "wan/inference/pipeline_wan_w_mem_relative_rope.py"
_MODEL = "wan/models/dits/arwan_w_action_w_mem_relative_rope.py"
# The files whose code computes.
_COMPUTING = (
    _PIPELINE,
    _MODEL,
    "wan/inference/helper.py",
    "wan/models/utils.py",
    "hyvideo/prope/camera_rope.py",
    "hyvideo/utils/retrieval_context.py",
)
TESTED_SOURCES = "5413df6ee5ebed82e4dfd8849574eb83d42eeaa33bbab54aacbd5d458f7707c3"
_NAMES = ("hyvideo", "models", "inference", "distributed", "sageattention")


@dataclass(frozen=True)
class Package:
    """The imported modules, and the digest of the files that compute."""

    pipeline: Any
    model: Any
    helper: Any
    sources: str

    @property
    def version(self) -> str:
        """The tested revision by its name; another one by the digest of its sources."""
        if self.sources == TESTED_SOURCES:
            return f"HY-WorldPlay {TESTED_REVISION[:7]}"
        return f"HY-WorldPlay, not the tested revision (sources sha256 {self.sources})"


def folder() -> Path:
    """The repository's folder, of which nothing is imported. Raises UserError where there is none."""
    spec = importlib.util.find_spec("hyvideo")
    found = None if spec is None or spec.origin is None else Path(spec.origin).parent.parent
    if found is None or not (found / _PIPELINE).is_file():
        raise _unusable("no folder with hyvideo and wan in it" if found is None else f"{found} without {_PIPELINE}")
    return found


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules of the pipeline, while the context is open. Build its models inside.

    Afterwards `sys.modules` and the settings of the process are as they were. Raises UserError where the repository, or
    something that it needs, is not installed, and, unless `untested`, where it is not the tested revision.
    """
    place = folder()
    sources = sources_digest(place, _COMPUTING)
    if sources != TESTED_SOURCES and not untested:
        raise UserError(
            "HY-WorldPlay is there, but not the revision that was tested",
            found=f"sources with sha256 {sources}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{INSTALL}; or name the implementation hy-worldplay+{UNTESTED} to run it all the same",
        )
    aside = {name: sys.modules.pop(name) for name in _modules()}
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        try:
            yield _import(place, sources)
        finally:
            for name in _modules():
                del sys.modules[name]
            sys.modules.update(aside)


def _import(place: Path, sources: str) -> Package:
    for name, path in (("hyvideo", "hyvideo"), ("models", "wan/models"), ("inference", "wan/inference")):
        _stand_in(name, place / path)
    _stand_in("models.par_vae")
    _stand_in("models.par_vae.tools", distribute_data_to_gpus=None, gather_results=None)
    _stand_in("distributed")
    _stand_in("distributed.communication_op", all_to_all_sp=None, sequence_model_parallel_all_gather=None)
    _stand_in(
        "distributed.parallel_state",
        get_sp_world_size=lambda: 1,
        get_sp_parallel_rank=lambda: 0,
        get_sp_parallel_local_rank=lambda: 0,
    )
    _stand_in("sageattention", sageattn=attention)
    try:
        with mock.patch.object(torch, "compile", _as_it_is):
            return Package(
                pipeline=importlib.import_module("inference.pipeline_wan_w_mem_relative_rope"),
                model=importlib.import_module("models.dits.arwan_w_action_w_mem_relative_rope"),
                helper=importlib.import_module("inference.helper"),
                sources=sources,
            )
    except (ImportError, AttributeError, RuntimeError) as error:
        raise _unusable(f"{place}: {error}") from error


def attention(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool) -> Tensor:
    """What sageattn does of [B,H,T,D], without its quantised keys."""
    assert tensor_layout == "HND", "another layout"
    return functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _stand_in(name: str, path: Path | None = None, **contents: object) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    module.__path__ = [] if path is None else [str(path)]
    # diffusers looks for packages by it.
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module


def _modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in _NAMES]


def _unusable(found: str) -> UserError:
    return UserError(
        "the vendor's code of HY-WorldPlay cannot be used",
        found=found,
        expected=f"the repository HY-WorldPlay at the tested revision {TESTED_REVISION}",
        do=INSTALL,
    )
