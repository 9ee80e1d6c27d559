"""Slots: the tensors of a ring site, told slot by slot in a word each, small enough for a record."""

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.rings.side import (
    ALL,
    EMPTY,
    MIXED,
    NONE,
    NOT_A_NUMBER,
    ring_part,
)
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import block_of


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


def written_tokens(site: str, clock: int, config: TransformerConfig) -> Tensor | None:
    """Which tokens [L+T,1] bool of a ring's `kv` were written once the frame at `clock` was kept; None where all were.

    A layer keeps every frame whose clock its dilation divides, in the slots of its ring in turn.
    """
    layer = block_of(site)
    if layer is None or ring_part(site) != "kv":
        return None
    frames, dilation = config.ring_frames(layer), config.dilation(layer)
    written = min(clock // dilation + 1, frames // dilation)
    if written == frames:
        return None
    slots = torch.arange(frames + 1)
    # The tail, behind the ring, is always there.
    return ((slots < written) | (slots == frames)).repeat_interleave(config.tokens_per_frame)[:, None]


def _content(keys: Tensor) -> str:
    # One digest for all slots that hold nothing else would take them for each other.
    if keys.numel() and bool(keys[(0,) * keys.dim()].isnan()) and bool(keys.isnan().all()):
        return NOT_A_NUMBER
    digest = fast_digest(keys)
    return EMPTY if digest == _digest_of_zeros(keys.shape, keys.dtype) else digest


@lru_cache
def _digest_of_zeros(shape: torch.Size, dtype: torch.dtype) -> str:
    """Looking for a value that is not zero would take ten times as long as a digest."""
    return fast_digest(torch.zeros(shape, dtype=dtype))


def _flag(tokens: Tensor) -> str:
    return ALL if tokens.all() else MIXED if tokens.any() else NONE
