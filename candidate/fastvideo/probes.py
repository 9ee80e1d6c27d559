"""Probes: modules inside the port that see its values in the official layout, where its own layout differs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "gate_proj")


class Probed(nn.Module):
    """A layer of the port whose output passes through a probe: `enter` makes the official layout, `leave` undoes it.

    So a site of the port can be replaced like any other: the port continues with what the probe returns.
    """

    def __init__(self, layer: nn.Module, enter: Callable[[Any], Tensor], leave: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.probe = nn.Identity()
        self._enter, self._leave = enter, leave

    def forward(self, x: Tensor) -> Any:
        """The layer's output for `x`, in the port's own layout."""
        return self._leave(self.probe(self._enter(self.layer(x))))


class ProbedRotation(nn.Module):
    """One layer's calls of the rotation that all layers share: queries first, then keys, [1,T,heads,D] each.

    Its probes see them in the official layout, [1,heads,T,D].
    """

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self.rope = rope
        self.q_rope, self.k_rope = nn.Identity(), nn.Identity()
        self._positions: dict[str, Tensor] | None = None

    def forward(self, x: Tensor, positions: dict[str, Tensor]) -> Tensor:
        """Rotate `x` [1,T,heads,D], queries or keys, whose tokens stand at `positions`."""
        # Every forward of the model makes one new mapping of positions: the first call with it rotates the queries.
        probe = self.k_rope if positions is self._positions else self.q_rope
        self._positions = positions
        rotated: Tensor = probe(self.rope(x, positions).transpose(1, 2))
        return rotated.transpose(1, 2)


def insert_probes(block: Any) -> dict[str, nn.Module]:
    """Insert probes into a loaded transformer block. They are keyed by the site's name without the block's."""
    attn = block.attn
    probes: dict[str, nn.Module] = {}
    for name in PROJECTIONS:
        if hasattr(attn, name):
            projection = Probed(getattr(attn, name), _without_bias, _with_bias)
            setattr(attn, name, projection)
            probes[f".attn.{name}"] = projection.probe
    block.cond_head = Probed(block.cond_head, torch.stack, tuple)
    attn.rope = ProbedRotation(attn.rope)
    return probes | {
        ".cond_head": block.cond_head.probe,
        ".attn.q_rope": attn.rope.q_rope,
        ".attn.k_rope": attn.rope.k_rope,
    }


def _without_bias(output: tuple[Tensor, None]) -> Tensor:
    """The port's linear layers return their output and a bias for the caller to add. In this model there is none."""
    return output[0]


def _with_bias(output: Tensor) -> tuple[Tensor, None]:
    return output, None
