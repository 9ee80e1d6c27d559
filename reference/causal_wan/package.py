"""Self-Forcing's code: where it lies, whether it is the tested one, and an import of what its inference needs.

It is no package: its folders `wan`, `pipeline` and `utils` lie where they are found on PYTHONPATH, and other projects
have folders of these names. So `imported()` puts these in their place, for as long as it is open:

- `wan`, `wan.modules`, `pipeline`, `utils`: empty packages with the real paths; their `__init__`s do not run.
- `wan.modules.tokenizers`, `wan.modules.t5`, `wan.modules.vae`: modules with the names that are never called.
- `demo_utils.memory`: the same, because it asks for a GPU when it is imported.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.reference.sources import sources_digest

UNTESTED = "untested-revision"
TESTED_REVISION = "33593df3e81fa3ec10239271dd2c100facac6de1"
INSTALL = (
    f"git clone https://github.com/guandeh17/Self-Forcing && git -C Self-Forcing checkout {TESTED_REVISION}, put that "
    "folder on PYTHONPATH; pip install diffusers einops"
)
# The files whose code computes.
_COMPUTING = (
    "pipeline/causal_inference.py",
    "utils/scheduler.py",
    "utils/wan_wrapper.py",
    "wan/modules/attention.py",
    "wan/modules/causal_model.py",
    "wan/modules/model.py",
)
TESTED_SOURCES = "89cdbd41cbbc9c9db0ecff46fd420906dd52eb2f4ee9aa71fa2673c61f112b93"
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
    """The imported modules, and the digest of the files that compute."""

    pipeline: Any
    wrapper: Any
    causal: Any
    model: Any
    sources: str

    @property
    def version(self) -> str:
        """The tested revision by its name; another one by the digest of its sources."""
        if self.sources == TESTED_SOURCES:
            return f"Self-Forcing {TESTED_REVISION[:7]}"
        return f"Self-Forcing, not the tested revision (sources sha256 {self.sources})"


def folder() -> Path:
    """The folder that holds the code: the first on the path with such a model. Raises UserError where there is none."""
    for entry in sys.path:
        if (Path(entry or ".") / "wan" / "modules" / "causal_model.py").is_file():
            return Path(entry or ".").resolve()
    raise _unusable("no folder on PYTHONPATH with wan/modules/causal_model.py")


@contextmanager
def imported(*, untested: bool = False) -> Iterator[Package]:
    """The modules, while the context is open. Build models inside.

    Afterwards `sys.modules` and the settings of the process are as they were. Raises UserError where the code, or
    something that it needs, is not installed, and, unless `untested`, where it is not the tested revision.
    """
    place = folder()
    sources = sources_digest(place, _COMPUTING)
    if sources != TESTED_SOURCES and not untested:
        raise UserError(
            "Self-Forcing is there, but not the revision that was tested",
            found=f"sources with sha256 {sources}",
            expected=f"revision {TESTED_REVISION} (sources with sha256 {TESTED_SOURCES})",
            do=f"{INSTALL}; or name the implementation self-forcing+{UNTESTED} to run it all the same",
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
    for name in _PACKAGES:
        _stand_in(name).__path__ = [str(place.joinpath(*name.split(".")))]
    for name, contents in _NOT_CALLED.items():
        vars(_stand_in(name)).update(dict.fromkeys(contents))
    try:
        return Package(
            pipeline=importlib.import_module("pipeline.causal_inference"),
            wrapper=importlib.import_module("utils.wan_wrapper"),
            causal=importlib.import_module("wan.modules.causal_model"),
            model=importlib.import_module("wan.modules.model"),
            sources=sources,
        )
    except (ImportError, AttributeError) as error:
        raise _unusable(f"{place}: {error}") from error


def _stand_in(name: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    return module


def _modules() -> list[str]:
    roots = {name.partition(".")[0] for name in _PACKAGES}
    return [name for name in sys.modules if name.partition(".")[0] in roots]


def _unusable(found: str) -> UserError:
    return UserError(
        "the code of Self-Forcing cannot be used",
        found=found,
        expected=f"Self-Forcing at the tested revision {TESTED_REVISION}",
        do=INSTALL,
    )
