"""Full tensors of a dump, read again: each is held against its record first."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import TENSORS_NAME, Record
from waypoint_parity.harness.record.statistics import other_statistic, summarise
from waypoint_parity.harness.run.digest import fast_digest

# Sketches of the same values, summed in another order, are apart by far less.
_ALIKE = 1e-3


class KeptTensors:
    """The tensors that a dump keeps, `names` theirs."""

    def __init__(self, path: Path, file: Any) -> None:
        self.names = frozenset[str](file.keys())
        self._path = path
        self._file = file

    def unchecked(self, name: str) -> Tensor:
        """The tensor of this name, whatever a record says of it."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def tensor(self, record: Record) -> Tensor:
        """The tensor of a record. Raises UserError where the record tells of another."""
        tensor = self.unchecked(str(record.key))
        if (unlike := _unlike(record, tensor)) is not None:
            raise UserError(
                f"{self._path}: {record.key} is not what the record tells of",
                found=unlike,
                expected="the same values in the dump's records and in its tensors",
                do="dump again; one of the two is of another run, or was changed",
            )
        return tensor


def open_tensors(folder: Path, device: str = "cpu") -> KeptTensors:
    """The tensors of the dump in `folder`, which has some. Raises UserError for a file that is broken."""
    path = folder / TENSORS_NAME
    try:
        return KeptTensors(path, safe_open(path, framework="pt", device=device))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read", found=str(error), expected="a whole safetensors file", do="dump again"
        ) from error


def _unlike(record: Record, tensor: Tensor) -> str | None:
    """What of a tensor its record contradicts."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if (record.dtype, record.shape) != (dtype, list(tensor.shape)):
        return f"{dtype} {list(tensor.shape)}, in the record {record.dtype} {record.shape}"
    if record.digest is not None:
        return None if fast_digest(tensor.cpu()) == record.digest else "other values: their digest is not the record's"
    values = summarise(tensor)
    if (values.nan, values.posinf, values.neginf) != record.non_finite:
        return f"NaN, +inf, -inf counts {(values.nan, values.posinf, values.neginf)}, in the record {record.non_finite}"
    if not record.sketch:
        return other_statistic(record, values, near=record.resolution + _ALIKE)
    sketch, recorded = np.frombuffer(values.sketch, "<f4"), record.projection()
    apart = float(np.linalg.norm(np.subtract(sketch, recorded, dtype=np.float64)))
    if apart > _ALIKE * float(np.linalg.norm(recorded.astype(np.float64))):
        return "other values: their sketch is not the record's"
    return None
