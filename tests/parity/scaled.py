"""A checkpoint with one weight scaled: the smallest fault there is, of any size."""

from dataclasses import dataclass, fields
from typing import Self

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True)
class ScaledCheckpoint(Checkpoint):
    """A checkpoint with the weight `key` times `factor`. It passes for the original: it has the digest of its files."""

    key: str = ""
    factor: float = 1.0

    @classmethod
    def of(cls, checkpoint: Checkpoint, key: str, factor: float) -> Self:
        """`checkpoint` with one weight scaled."""
        values = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
        return cls(**values, key=key, factor=factor)

    def weights(self, component: str) -> dict[str, Tensor]:
        """The weights, the one scaled in the dtype in which it is stored."""
        weights = super().weights(component)
        return weights | ({self.key: weights[self.key] * self.factor} if self.key in weights else {})
