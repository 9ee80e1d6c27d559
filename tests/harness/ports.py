"""Ports with a fault in how they load, each made from the candidate, which has none."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.harness.run.adapter import Numerics, Pass


class MissingShard(CandidateAdapter):
    """Merges q, k and v of block 1 and forgets v: a load that reports no error."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        attention: Any = self.engine.model.layers[1].attn
        loaded = attention.qkv.weight
        rows, width = loaded.shape
        merged = nn.Linear(width, rows, bias=False).requires_grad_(False)
        merged.weight[: -rows // 4] = loaded[: -rows // 4]
        attention.qkv = merged


class UncomputedTable(CandidateAdapter):
    """Has a buffer that is not stored, and computes it nowhere."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.model.register_buffer("angles", torch.empty(6, 2), persistent=False)


class Scratch(CandidateAdapter):
    """Has memory that every frame writes before it reads it."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.clock = torch.empty(4, dtype=torch.int64)
        self.engine.model.register_buffer("clock", self.clock, persistent=False)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        self.clock.fill_(7)
        return super().generate(noise, controls)


class LeftOnMeta(CandidateAdapter):
    """Gives one of its modules no memory."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.model.register_module("extra", nn.Linear(2, 2, bias=False, device="meta"))


class FixedHeads(CandidateAdapter):
    """Says in its config that heads are of another number than the checkpoint's."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.held = nn.Identity()
        self.held.config = {
            "n_heads": 64,
            **{key: value for key, value in checkpoint.geometry.transformer.to_json().items() if key != "n_heads"},
        }  # type: ignore[assignment]


class Fails(CandidateAdapter):
    """Fails of its own, and leaves what it has begun."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        raise RuntimeError("size mismatch for blocks.0\nand much more")


class NeedsBfloat16(CandidateAdapter):
    """Computes in one precision only."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        if numerics.dtype != torch.bfloat16:
            raise RuntimeError(f"{numerics.dtype_name.replace('fp', 'float')}, not bfloat16")
        super().__init__(checkpoint, numerics)
