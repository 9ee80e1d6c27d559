"""Whether the package's lists of blocks are what its attention sees, and how they are made to be.

Waypoint 1.5's sources say by a list of blocks alone which tokens of a ring can be seen. Eager flex_attention does not
read the list, and attends to hidden and to never-written slots too. A mask function it does read.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError

# (layer, tokens that can be seen [L+T] bool) -> the same, or what takes their place.
Show = Callable[[int, Tensor], Tensor]
# Large beside what a ring holds: normalised keys, and values of order one.
_GARBAGE = 10.0


def check_block_lists(
    engine: Any, denoise: Callable[[Tensor], Tensor], repair: Callable[[], None] | None = None
) -> str:
    """What was done about hidden slots, in words: nothing where they are hidden, else the `repair`.

    `denoise` runs a step of the engine's from the noise that it is given. Raises UserError where hidden slots are seen
    in the end.
    """
    if not sees_hidden_slots(engine, denoise):
        return "hidden slots change nothing, by a probe at load"
    if repair is not None:
        repair()
        if not sees_hidden_slots(engine, denoise):
            return "hidden slots changed a pass, by a probe at load: made a mask function, and now they change nothing"
    raise UserError(
        "world_engine attends to ring slots that are hidden or were never written",
        found="other velocities with other values in those slots, by a probe at load"
        + (", also after block lists were made mask functions" if repair is not None else ", in compiled passes"),
        expected="the same values, bit for bit",
        do="use the torch release that this project is tested with; what this one computes is no reference",
    )


@torch.inference_mode()
def sees_hidden_slots(engine: Any, denoise: Callable[[Tensor], Tensor]) -> bool:
    """Whether values in hidden and in never-written slots of any ring change a step at frame 0. Resets the engine.

    Of every ring the first two slots count as written. The first is the one that frame 0 replaces, and so hidden.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(engine.frm_shape, generator=generator)
    rings = [torch.randn(layer.kv.shape, generator=generator) for layer in engine.kv_cache.layers]
    latents = []
    for garbage in (0.0, _GARBAGE):
        engine.reset()
        for layer, values in zip(engine.kv_cache.layers, rings, strict=True):
            tokens = layer.tpf
            written = min(2, layer.num_buckets) * tokens
            hidden = values * garbage
            hidden[..., tokens:written, :] = values[..., tokens:written, :]
            layer.kv.copy_(hidden)
            layer.written[:written] = True
        latents.append(denoise(noise.to(engine.device, engine.dtype)))
    engine.reset()
    return not torch.equal(*latents)


def read_as_masks(cache: Any, show: Show) -> None:
    """Let `cache`, the engine's, hand out every list of blocks as a mask function too."""
    listed = cache.upsert

    def upsert(k: Tensor, v: Tensor, pos_ids: Any, layer: int) -> tuple[Tensor, Tensor, Any]:
        keys, values, blocks = listed(k, v, pos_ids, layer)
        # All queries of a frame see the same blocks.
        seen = blocks.to_dense()[0, 0, 0].bool().repeat_interleave(blocks.BLOCK_SIZE[1])
        seen = show(layer, seen)
        blocks.mask_mod = lambda batch, head, query, token: seen[token]
        return keys, values, blocks

    cache.upsert = upsert
