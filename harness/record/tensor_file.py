"""The full tensors of a dump, written as they come: none of them stays in memory."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from waypoint_parity.harness.files import partial_name
from waypoint_parity.harness.run.digest import flat_bytes

_AT_ONCE = 1 << 24  # bytes


class TensorFile:
    """A safetensors file at `path`, which takes that name once it is finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(partial_name(path.name))
        self._file = self._partial.open("w+b")
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor on the CPU. Of two by one name the first one is kept."""
        if name in self._entries:
            return
        begin = self._file.tell()
        self._file.write(memoryview(flat_bytes(tensor).numpy()))  # type: ignore[arg-type]  # numpy has the protocol
        offsets = [begin, self._file.tell()]
        self._entries[name] = {"dtype": _spelt(tensor.dtype), "shape": list(tensor.shape), "data_offsets": offsets}

    def finish(self) -> None:
        """Put the header before what was written, within the same file: there may be no room for two."""
        with self._file as file:
            header = json.dumps(self._entries, ensure_ascii=False).encode()
            header += b" " * (-len(header) % 8)
            before = len(header).to_bytes(8, "little") + header
            end = file.tell()
            while end:
                begin = max(0, end - _AT_ONCE)
                file.seek(begin)
                block = file.read(end - begin)
                file.seek(begin + len(before))
                file.write(block)
                end = begin
            file.seek(0)
            file.write(before)
            file.flush()
            os.fsync(file.fileno())
        self._partial.replace(self._path)


@cache
def _spelt(dtype: torch.dtype) -> str:
    """How the format spells a dtype, by the library that reads it."""
    written = save({"": torch.empty(0, dtype=dtype)})
    return str(json.loads(written[8:])[""]["dtype"])
