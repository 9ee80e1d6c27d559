"""FastVideo's Wan: where it lies, whether it is the tested one, and everything that stands in for something else.

Its pipeline is written for a GPU and bf16, and started by its own engine. So `imported()` puts these in place:

- `fastvideo`: an empty package with the real path. Its `__init__` starts the whole engine.
- `fastvideo.platforms`: FastVideo's own CPU platform on every device, because the real one looks for GPUs. It names
  FastVideo's own SDPA backend for attention; the CPU platform as it is names none. Its device is that of the run.
- `torch.bfloat16` in the denoising stage is `torch.float32`: the stage casts every latent to it in any precision.
- A process group of one, which ends when the models are built.
- `torchvision` and `remote_pdb`, where they are not installed: empty modules, imported by name and never called.
- The progress bar of the denoising stage is switched off.

FastVideo imports modules of its own while it computes. They are in `sys.modules` only within `placed`.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import distributed
from torch._C import _distributed_c10d as _distributed

from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.harness.run.sources import Tested, stand_in

PACKAGE = "fastvideo"
_REVISION = "2f3d4074064e4d86f99dc784ebbaa296e6f5925f"
TESTED = Tested(
    called="FastVideo",
    implementation="wan-fastvideo",
    revision=_REVISION,
    files=(
        "attention/layer.py",
        "attention/backends/sdpa.py",
        "layers/layernorm.py",
        "layers/linear.py",
        "layers/mlp.py",
        "layers/rotary_embedding.py",
        "layers/visual_embedding.py",
        "models/dits/wanvideo.py",
        "models/schedulers/scheduling_flow_unipc_multistep.py",
        "models/vaes/wanvae.py",
        "pipelines/basic/wan/wan_pipeline.py",
        "pipelines/stages/decoding.py",
        "pipelines/stages/denoising.py",
        "pipelines/stages/latent_preparation.py",
        "pipelines/stages/timestep_preparation.py",
    ),
    digest="f1db71a0b42895bcc0b89d8f2c9220f621b202fa9843e4739661276ba6c6411f",
    # Without dependencies: FastVideo pins another torch, and packages that only a GPU has.
    install=f'pip install --no-deps "fastvideo @ git+https://github.com/hao-ai-lab/FastVideo@{_REVISION}"; '
    "pip install diffusers transformers accelerate einops scipy pyyaml imageio cloudpickle filelock",
)
# Imported by name, of what is never called here.
_ABSENT = (
    "torchvision",
    "torchvision.utils",
    "torchvision.transforms",
    "torchvision.transforms.functional",
    "remote_pdb",
)
_SDPA = f"{PACKAGE}.attention.backends.sdpa.SDPABackend"


@dataclass(frozen=True)
class Port:
    """FastVideo's modules, imported; what names them in `sys.modules`; and what it is."""

    pipeline: Any
    denoising: Any
    batch: Any
    settings: Any
    config: Any
    transformer: Any
    autoencoder: Any
    modules: dict[str, ModuleType]
    version: str


@contextmanager
def imported(device: torch.device, *, untested: bool = False) -> Iterator[Port]:
    """The port, while the context is open. Build its models inside; afterwards it runs within `placed`.

    Raises UserError where the package, or something that it needs, is not installed, and, unless `untested`, where it
    is not the tested revision.
    """
    package = TESTED.package(PACKAGE)
    version = TESTED.version(package, untested=untested)
    modules: dict[str, ModuleType] = {}
    with preserved_settings(), warnings.catch_warnings(action="ignore"), placed(modules):
        os.environ.update(FASTVIDEO_CONFIGURE_LOGGING="0", FASTVIDEO_ATTENTION_BACKEND="TORCH_SDPA")
        try:
            port = _import(package, device, modules, version)
        except (ImportError, AttributeError) as error:
            raise TESTED.unusable(f"{package}: {error}") from error
        with _group_of_one(f"{PACKAGE}.distributed"):
            yield port


@contextmanager
def placed(modules: dict[str, ModuleType]) -> Iterator[None]:
    """With these modules of the package in `sys.modules`, and those that are imported meanwhile; afterwards as before.

    A process that uses FastVideo itself has its own.
    """
    aside = _taken()
    sys.modules.update(modules)
    try:
        yield
    finally:
        modules.update(_taken())
        sys.modules.update(aside)


def _taken() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {name: sys.modules.pop(name) for name in names}


def _import(package: Path, device: torch.device, modules: dict[str, ModuleType], version: str) -> Port:
    # Before anything stands in for torchvision: transformers asks whether it is installed.
    for name in ("transformers", "diffusers"):
        importlib.import_module(name)
    stand_in(PACKAGE, package)
    with _absent():
        platforms = stand_in(f"{PACKAGE}.platforms", package / "platforms")
        interface: Any = importlib.import_module(f"{PACKAGE}.platforms.interface")
        cpu: Any = importlib.import_module(f"{PACKAGE}.platforms.cpu")
        kind = type("CpuPlatform", (cpu.CpuPlatform,), {"get_attn_backend_cls": classmethod(lambda *_, **__: _SDPA)})
        contents = {name: getattr(interface, name) for name in ("AttentionBackendEnum", "Platform", "PlatformEnum")}
        vars(platforms).update(contents, current_platform=kind())
        parallel: Any = importlib.import_module(f"{PACKAGE}.distributed.parallel_state")
        parallel.get_local_torch_device = lambda: device
        vars(importlib.import_module(f"{PACKAGE}.distributed"))["get_local_torch_device"] = lambda: device
        # In this order: FastVideo's modules import each other in a circle.
        port = Port(
            transformer=importlib.import_module(f"{PACKAGE}.models.dits.wanvideo"),
            autoencoder=importlib.import_module(f"{PACKAGE}.models.vaes.wanvae"),
            config=importlib.import_module(f"{PACKAGE}.configs.pipelines.wan"),
            settings=importlib.import_module(f"{PACKAGE}.fastvideo_args"),
            pipeline=importlib.import_module(f"{PACKAGE}.pipelines.basic.wan.wan_pipeline"),
            denoising=importlib.import_module(f"{PACKAGE}.pipelines.stages.denoising"),
            batch=importlib.import_module(f"{PACKAGE}.pipelines.pipeline_batch_info"),
            modules=modules,
            version=f"{importlib.import_module(f'{PACKAGE}.version').__version__}, {version}",
        )
    vars(port.denoising).update(torch=_Torch(), tqdm=partial(port.denoising.tqdm, disable=True))
    return port


class _Torch:
    """torch, as the denoising stage sees it."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def _group_of_one(name: str) -> Iterator[None]:
    """FastVideo's parallel groups, each of this process alone. A layer asks only how large its group is."""
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("gloo", store=_distributed.HashStore(), rank=0, world_size=1)
    try:
        sys.modules[name].maybe_init_distributed_environment_and_model_parallel(1, 1)
        yield
    finally:
        if ours:
            distributed.destroy_process_group()


@contextmanager
def _absent() -> Iterator[None]:
    """With empty modules of what is not installed."""
    added = [name for name in _ABSENT if importlib.util.find_spec(name.partition(".")[0]) is None]
    try:
        for name in added:
            module = stand_in(name, __getattr__=_empty)
            above, _, last = name.rpartition(".")
            if above:
                setattr(sys.modules[above], last, module)
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _empty(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
