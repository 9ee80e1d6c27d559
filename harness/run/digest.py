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


def flat_bytes(tensor: Tensor) -> Tensor:
    """The values of `tensor` as bytes [n] uint8 in row-major order; a copy only where it lies otherwise."""
    flat = tensor.contiguous().view(-1)
    # One expanded element counts as contiguous, with a stride of 0.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(flat_bytes(tensor).numpy())  # type: ignore[arg-type]  # numpy has the buffer protocol
