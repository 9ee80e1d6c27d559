"""Digests of tensors: equality of values without keeping them."""

import hashlib
from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor


def values_digest(header: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over `header` and the names, dtypes, shapes and values of `tensors`, which lie on the CPU."""
    hasher = hashlib.sha256(header.encode())
    for name, tensor in tensors:
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hasher.update(_bytes(tensor))
    return hasher.hexdigest()


def fast_digest(tensor: Tensor) -> str:
    """xxh3-64 over the values of a tensor on the CPU: no proof against malice, but a tenth of the cost."""
    return xxhash.xxh3_64_hexdigest(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    """The values of `tensor` as bytes in row-major order; a copy only where it lies otherwise."""
    flat = tensor.contiguous().view(-1)
    # An expanded element counts as contiguous, with a stride of 0.
    flat = flat if flat.stride(0) == 1 else flat.as_strided(flat.shape, (1,))
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy has the buffer protocol
