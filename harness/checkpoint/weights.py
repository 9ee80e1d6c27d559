"""The tensors of one model, spread over safetensors files."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed

Shape = tuple[int, ...]
# Of a component in the diffusers layout.
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Mismatch:
    """How the keys found differ from the keys expected; false where they do not."""

    missing: list[str]
    extra: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)


def compared(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Mismatch:
    """Every key that one side lacks, and every key whose shape differs ("key [found], not [expected]")."""
    common = found.keys() & expected.keys()
    return Mismatch(
        missing=sorted(expected.keys() - found.keys()),
        extra=sorted(found.keys() - expected.keys()),
        misshapen=[
            f"{key} {list(found[key])}, not {list(expected[key])}"
            for key in sorted(common)
            if found[key] != expected[key]
        ],
    )


@dataclass(frozen=True)
class Stored:
    """How a file stores one tensor; `dtype` as the file format spells it (F32, BF16, ...)."""

    shape: Shape
    dtype: str

    @property
    def parameters(self) -> int:
        """How many values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes of the file; a dtype's name holds its width in bits, but for BOOL."""
        width = re.search(r"\d+", self.dtype)
        return self.parameters * int(width[0] if width else 8) // 8


@dataclass(frozen=True)
class Weights:
    """The tensors of one model, spread over safetensors files; `files` maps each file to the prefix its keys lack."""

    files: Mapping[Path, str]

    def stored(self) -> dict[str, Stored]:
        """Key -> how the tensor is stored, sorted by key, from the file headers alone."""
        found: dict[str, Stored] = {}
        for path, prefix in self.files.items():
            header = _opened(path)
            for key in header.keys():  # noqa: SIM118 - a handle is no mapping
                entry = header.get_slice(key)
                found[prefix + key] = Stored(tuple(entry.get_shape()), entry.get_dtype())
        return dict(sorted(found.items()))

    def shapes(self) -> dict[str, Shape]:
        """Key -> shape, from the file headers alone."""
        return {key: stored.shape for key, stored in self.stored().items()}

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Raise UserError, naming the keys, where the files do not hold exactly the `expected` tensors."""
        mismatch = compared(self.shapes(), expected)
        if not mismatch:
            return
        parts = {"missing": mismatch.missing, "extra": mismatch.extra, "misshapen": mismatch.misshapen}
        raise UserError(
            f"{listed([str(path) for path in self.files])}: the weights do not fit the config",
            found="; ".join(f"{len(keys)} {part}: {listed(keys)}" for part, keys in parts.items() if keys),
            expected=f"exactly the {len(expected)} tensors that the config asks for",
            do="pair the weights with the config they were saved with",
        )

    def load(self) -> dict[str, Tensor]:
        """Every tensor as stored, on the CPU. Raises UserError, naming the keys, for values that are not finite."""
        tensors = dict(self.stream())
        if broken := sorted(key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()):
            raise UserError(
                f"{listed([str(path) for path in self.files])}: weights hold NaN or infinity",
                found=listed(broken),
                expected="finite values in every weight",
                do="fetch or convert the checkpoint again; a reduced-precision conversion may have overflowed",
            )
        return tensors

    def stream(self, containing: str = "") -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) one at a time, sorted by key, whatever file it lies in; only keys `containing` a text."""
        handles = {path: _opened(path) for path in self.files}
        homes = sorted(
            (prefix + key, path, key)
            for path, prefix in self.files.items()
            for key in handles[path].keys()  # noqa: SIM118
            if containing in prefix + key
        )
        for name, path, key in homes:
            yield name, handles[path].get_tensor(key)


def _opened(path: Path) -> Any:
    """The open safetensors file; a broken or absent one raises UserError."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors",
            found=str(error) or type(error).__name__,
            expected="a whole safetensors file",
            do="fetch or copy the file again; it was probably cut short",
        ) from error
