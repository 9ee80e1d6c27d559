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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from waypoint_parity.harness.run.sources import Tested, in_their_place, stand_in

_REVISION = "da2d0c26eb0edb647f56e164ffd966490eb75282"
_PIPELINE = "wan/inference/pipeline_wan_w_mem_relative_rope.py"
TESTED = Tested(
    called="HY-WorldPlay",
    implementation="hy-worldplay",
    revision=_REVISION,
    files=(
        _PIPELINE,
        "wan/models/dits/arwan_w_action_w_mem_relative_rope.py",
        "wan/inference/helper.py",
        "wan/models/utils.py",
        "hyvideo/prope/camera_rope.py",
        "hyvideo/utils/retrieval_context.py",
    ),
    digest="5413df6ee5ebed82e4dfd8849574eb83d42eeaa33bbab54aacbd5d458f7707c3",
    install="git clone https://github.com/Tencent-Hunyuan/HY-WorldPlay && git -C HY-WorldPlay checkout "
    f'{_REVISION}, put that folder on PYTHONPATH; pip install "diffusers==0.42.1" transformers ftfy regex scipy',
)


@dataclass(frozen=True)
class Package:
    """The imported modules, and which revision they are of."""

    pipeline: Any
    model: Any
    helper: Any
    version: str


def folder() -> Path:
    """The repository's folder, of which nothing is imported. Raises UserError where there is none."""
    spec = importlib.util.find_spec("hyvideo")
    found = None if spec is None or spec.origin is None else Path(spec.origin).parent.parent
    if found is None or not (found / _PIPELINE).is_file():
        raise TESTED.unusable(
            "no folder with hyvideo and wan in it" if found is None else f"{found} without {_PIPELINE}"
        )
    return found


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules of the pipeline, while the context is open. Build its models inside.

    Raises UserError where the repository, or something that it needs, is not installed, and, unless `untested`, where
    it is not the tested revision.
    """
    place = folder()
    version = TESTED.version(place, untested=untested)
    with in_their_place("hyvideo", "models", "inference", "distributed", "sageattention"):
        yield _import(place, version)


def _import(place: Path, version: str) -> Package:
    for name, path in (("hyvideo", "hyvideo"), ("models", "wan/models"), ("inference", "wan/inference")):
        stand_in(name, place / path)
    stand_in("models.par_vae")
    stand_in("models.par_vae.tools", distribute_data_to_gpus=None, gather_results=None)
    stand_in("distributed")
    stand_in("distributed.communication_op", all_to_all_sp=None, sequence_model_parallel_all_gather=None)
    stand_in(
        "distributed.parallel_state",
        get_sp_world_size=lambda: 1,
        get_sp_parallel_rank=lambda: 0,
        get_sp_parallel_local_rank=lambda: 0,
    )
    stand_in("sageattention", sageattn=attention)
    try:
        with mock.patch.object(torch, "compile", _as_it_is):
            return Package(
                pipeline=importlib.import_module("inference.pipeline_wan_w_mem_relative_rope"),
                model=importlib.import_module("models.dits.arwan_w_action_w_mem_relative_rope"),
                helper=importlib.import_module("inference.helper"),
                version=version,
            )
    except (ImportError, AttributeError, RuntimeError) as error:
        raise TESTED.unusable(f"{place}: {error}") from error


def attention(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool) -> Tensor:
    """What sageattn does of [B,H,T,D], without its quantised keys."""
    assert tensor_layout == "HND", "another layout"
    return functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
