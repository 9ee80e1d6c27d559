"""Slots: the tensors of a ring site, told slot by slot in a word each, small enough for a record."""

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from waypoint_parity.harness.families.waypoint.rings.side import ALL, EMPTY, MIXED, NONE, ring_part
from waypoint_parity.harness.run.digest import fast_digest


def slot_marks(site: str, tensor: Tensor, tokens: int) -> list[str] | None:
    """What `tensor`, in the official layout, says of every slot of `tokens` tokens, the tail last.

    Of `kv` [2,1,G,L+T,D]: the digest of the slot's keys, which is that of `attn.k_rope` [1,G,T,D] in the pass that they
    come from; of `written` and `visible` [L+T]: whether all, none or some of its tokens are. None for any other site,
    for a tensor that is no such ring, and on an accelerator, which would have to send the tensor home for it.
    """
    part = ring_part(site)
    axis = 3 if part == "kv" else 0
    if part is None or tensor.device.type != "cpu" or tensor.dim() != (5 if part == "kv" else 1):
        return None
    if tensor.shape[axis] % tokens:
        return None
    bounds = pairwise(range(0, tensor.shape[axis] + 1, tokens))
    if part == "kv":
        return [_content(tensor[0, :, :, first:end]) for first, end in bounds]
    return [_flag(tensor[first:end].bool()) for first, end in bounds]


def _content(keys: Tensor) -> str:
    digest = fast_digest(keys)
    return EMPTY if digest == _digest_of_zeros(keys.shape, keys.dtype) else digest


@lru_cache
def _digest_of_zeros(shape: torch.Size, dtype: torch.dtype) -> str:
    """Looking for a value that is not zero would take ten times as long as a digest."""
    return fast_digest(torch.zeros(shape, dtype=dtype))


def _flag(tokens: Tensor) -> str:
    return ALL if tokens.all() else MIXED if tokens.any() else NONE
