"""Self-Forcing's code: where it lies, whether it is the tested one, and an import of what its inference needs.

It is no package: its folders `wan`, `pipeline` and `utils` lie where they are found on PYTHONPATH, and other projects
have folders of these names. So `imported()` puts these in their place, for as long as it is open:

- `wan`, `wan.modules`, `pipeline`, `utils`: empty packages with the real paths; their `__init__`s do not run.
- `wan.modules.tokenizers`, `wan.modules.t5`, `wan.modules.vae`: modules with the names that are never called.
- `demo_utils.memory`: the same, because it asks for a GPU when it is imported.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waypoint_parity.harness.run.sources import Tested, in_their_place, stand_in

_REVISION = "33593df3e81fa3ec10239271dd2c100facac6de1"
TESTED = Tested(
    called="Self-Forcing",
    implementation="self-forcing",
    revision=_REVISION,
    files=(
        "pipeline/causal_inference.py",
        "utils/scheduler.py",
        "utils/wan_wrapper.py",
        "wan/modules/attention.py",
        "wan/modules/causal_model.py",
        "wan/modules/model.py",
    ),
    digest="89cdbd41cbbc9c9db0ecff46fd420906dd52eb2f4ee9aa71fa2673c61f112b93",
    install=f"git clone https://github.com/guandeh17/Self-Forcing && git -C Self-Forcing checkout {_REVISION}, put "
    "that folder on PYTHONPATH; pip install diffusers einops",
)
_PACKAGES = ("wan", "wan.modules", "pipeline", "utils", "demo_utils")
_NOT_CALLED = {
    "wan.modules.tokenizers": ("HuggingfaceTokenizer",),
    "wan.modules.t5": ("umt5_xxl",),
    "wan.modules.vae": ("_video_vae",),
    "demo_utils.memory": (
        *("gpu", "get_cuda_free_memory_gb", "DynamicSwapInstaller", "move_model_to_device_with_memory_preservation"),
    ),
}


@dataclass(frozen=True)
class Package:
    """The imported modules, and which revision they are of."""

    pipeline: Any
    wrapper: Any
    causal: Any
    model: Any
    version: str


def folder() -> Path:
    """The folder that holds the code: the first on the path with such a model. Raises UserError where there is none."""
    for entry in sys.path:
        if (Path(entry or ".") / "wan" / "modules" / "causal_model.py").is_file():
            return Path(entry or ".").resolve()
    raise TESTED.unusable("no folder on PYTHONPATH with wan/modules/causal_model.py")


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules, while the context is open. Build models inside.

    Raises UserError where the code, or something that it needs, is not installed, and, unless `untested`, where it is
    not the tested revision.
    """
    place = folder()
    version = TESTED.version(place, untested=untested)
    with in_their_place(*(name for name in _PACKAGES if "." not in name)):
        yield _import(place, version)


def _import(place: Path, version: str) -> Package:
    for name in _PACKAGES:
        stand_in(name, place.joinpath(*name.split(".")))
    for name, contents in _NOT_CALLED.items():
        stand_in(name, **dict.fromkeys(contents))
    try:
        return Package(
            pipeline=importlib.import_module("pipeline.causal_inference"),
            wrapper=importlib.import_module("utils.wan_wrapper"),
            causal=importlib.import_module("wan.modules.causal_model"),
            model=importlib.import_module("wan.modules.model"),
            version=version,
        )
    except (ImportError, AttributeError) as error:
        raise TESTED.unusable(f"{place}: {error}") from error
