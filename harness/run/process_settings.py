"""Settings of the whole process. Somebody else's code may change them; its adapter puts them back."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ProcessSettings:
    """The settings in force when they were read: arithmetic, compiler, environment, warnings and random state.

    `precisions` are the fp32 precisions of the backends. `matmul_precision` sets them too, but torch distinguishes
    "none", the backend's choice, from an explicit "ieee".
    """

    matmul_precision: str
    precisions: tuple[str, ...]
    default_dtype: torch.dtype
    threads: int
    compilers: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, str]
    filters: tuple[Any, ...]
    random_state: bytes

    @classmethod
    def read(cls) -> "ProcessSettings":
        """The settings in force now."""
        return cls(
            matmul_precision=_matmul_precision(),
            precisions=tuple(backend.fp32_precision for backend in _backends()),
            default_dtype=torch.get_default_dtype(),
            threads=torch.get_num_threads(),
            compilers=tuple(config.get_config_copy() for config in _compiler_configs()),
            environment=dict(os.environ),
            filters=tuple(warnings.filters),
            random_state=torch.get_rng_state().numpy().tobytes(),
        )

    def restore(self) -> None:
        """Put back every setting that has changed since, and touch no other."""
        self._restore_arithmetic()
        for config, saved in zip(_compiler_configs(), self.compilers, strict=True):
            found = config.get_config_copy()
            for name in (name for name in saved if found[name] != saved[name]):
                setattr(config, name, saved[name])
        for name in os.environ.keys() - self.environment.keys():
            del os.environ[name]
        os.environ.update(self.environment)
        if tuple(warnings.filters) != self.filters:
            filters: Any = warnings.filters  # a list, typed as a sequence
            filters[:] = self.filters
        torch.set_rng_state(torch.frombuffer(bytearray(self.random_state), dtype=torch.uint8))

    def _restore_arithmetic(self) -> None:
        if _matmul_precision() != self.matmul_precision:
            torch.set_float32_matmul_precision(self.matmul_precision)
        # Afterwards, because the call above sets these as well.
        for backend, precision in zip(_backends(), self.precisions, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision
        if torch.get_default_dtype() != self.default_dtype:
            torch.set_default_dtype(self.default_dtype)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Put back what the block changes in the process, also where the block raises."""
    settings = ProcessSettings.read()
    try:
        yield
    finally:
        settings.restore()


@contextmanager
def compiler_stance(*, compiled: bool) -> Iterator[None]:
    """While open, code that compiles parts of itself runs `compiled` or eagerly. Afterwards the process is as it was.

    Open it around a call, never across a pass boundary: it holds for the whole process, and so for the other side too.
    """
    with torch.compiler.set_stance("default" if compiled else "force_eager"), warnings.catch_warnings():
        # Eager flex_attention warns that it is slow.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        if not compiled:
            yield
            return
        with preserved_settings():  # the compiler leaves variables in the environment
            yield


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        # Torch does not answer where one backend was set apart from "highest", and only there.
        return "highest"


def _backends() -> tuple[Any, ...]:
    # Set while torch is imported, and so unknown to the type checker.
    mkldnn: Any = torch.backends.mkldnn
    return torch.backends.cuda.matmul, mkldnn.matmul


def _compiler_configs() -> tuple[Any, ...]:
    # Imported here: the compiler takes a second to import, and only adapters of other code need it.
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    return torch._dynamo.config, torch._functorch.config, torch._inductor.config
