"""Slots: the tensors of a ring site, told slot by slot in a word each, small enough for a record."""

import math
from collections.abc import Sequence
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
from waypoint_parity.harness.run.family import MarksTold
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


def wrong_marks(told: MarksTold, tensor: Tensor | None, tokens: int) -> tuple[str, str] | None:
    """(found, expected) where the words of a ring site cannot be of it; None where they can, and for `tokens` 0.

    A word for keys may be any that is the same exactly where the keys are; empty slots are called so.
    """
    part, marks, shape = ring_part(told.site), told.marks, told.shape
    if part is None:
        return f"{len(marks)} slots", "none: the site shows no ring"
    axis = 3 if part == "kv" else 0
    if part != "kv" and (other := [mark for mark in marks if mark not in (ALL, NONE, MIXED)]):
        return other[0], f"{ALL}, {NONE} or {MIXED}"
    if tokens < 1 or len(shape) != (5 if part == "kv" else 1) or shape[axis] % tokens:
        return None
    if len(marks) != shape[axis] // tokens:
        return f"{len(marks)} words", f"{shape[axis] // tokens}: one for each slot of the ring, then this frame"
    own = None if tensor is None else slot_marks(told.site, tensor, tokens)
    if own is not None:
        return _unlike_marks(marks, own, named=part != "kv")
    inner = math.prod(shape[axis + 1 :])
    for place, value in told.known.items():
        mark = marks[place // inner % shape[axis] // tokens]
        # The second half of kv are values.
        is_empty = part == "kv" and mark == EMPTY and place < math.prod(shape) // 2
        if (value and (is_empty or (part != "kv" and mark == NONE))) or (not value and part != "kv" and mark == ALL):
            return f"{mark} of the slot of element {place}", f"another word: that element is {value:g}"
    if part != "kv" and told.mean is not None:
        count, least = told.mean * shape[0], marks.count(ALL) * tokens
        most = least + marks.count(MIXED) * tokens
        if not least - 0.5 <= count <= most + 0.5:
            return f"words for {least} to {most} tokens", f"words for {count:g}, by the mean"
    return None


def _unlike_marks(marks: Sequence[str], own: Sequence[str], *, named: bool) -> tuple[str, str] | None:
    """The first slot whose word is not its own; if not `named` any word will do that is the same for the same slots."""
    ours, theirs = dict[str, str](), dict[str, str]()
    for slot, (mark, right) in enumerate(zip(marks, own, strict=True)):
        same = theirs.setdefault(mark, right) == right and ours.setdefault(right, mark) == mark
        if not same or (mark != right and (named or EMPTY in (mark, right))):
            return f"{mark} of slot {slot}", right
    return None


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
