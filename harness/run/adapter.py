"""What the harness asks of an implementation, and the small values that cross that line.

Legend of the whole repository: B batch (always 1), N frames per call (always 1), F frames of a session, S denoise
steps, T tokens per frame, L ring capacity in tokens, H query heads, G key/value heads, D head width, M model width,
C latent channels, P prompt tokens, E prompt width, h,w token grid, ph,pw patch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.keys import Phase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Pass:
    """One pass of a session, announced before it runs. `step` counts sigma steps within `denoise`, else 0."""

    phase: Phase
    step: int = 0
    sigma: float | None = None


@dataclass(frozen=True)
class Numerics:
    """How an implementation is to compute; part of a run's identity.

    `options` are an implementation's own numerics, by name, as in `world-engine+patched`.
    """

    dtype: torch.dtype
    device: torch.device
    compiled: bool = False
    options: tuple[str, ...] = ()

    @property
    def dtype_name(self) -> str:
        """The dtype as the command line spells it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def to_json(self) -> dict[str, str]:
        """How a manifest holds it."""
        return {
            "dtype": self.dtype_name,
            "device": str(self.device),
            "compiled": str(self.compiled).lower(),
            "options": "+".join(self.options),
        }


@dataclass(frozen=True)
class Prompt:
    """The prompt of a session: `embedding` [1,P,E] fp32, `pad_mask` [1,P] bool (true = padding)."""

    embedding: Tensor
    pad_mask: Tensor


@dataclass(frozen=True)
class Controls:
    """The controls of one frame: `button` [n_buttons], `mouse` [2], `scroll` [1], all fp32."""

    button: Tensor
    mouse: Tensor
    scroll: Tensor


@dataclass(frozen=True)
class Site:
    """Where to watch: the module whose output is the site, and the transform of that output to the official layout.

    `restore` is the way back: from a tensor in the official layout, and the output as it was, to the output that the
    implementation is to go on with. Without a `layout` the tensor itself is that; with one and no `restore` nothing can
    be put in the output's place. What a hook on `module` returns must be what the implementation goes on with.
    """

    module: nn.Module
    layout: Callable[[Any], Tensor] | None = None
    restore: Callable[[Tensor, Any], Any] | None = None


class Adapter(Protocol):
    """Drives one implementation through sessions. It draws no noise of its own.

    `start`, `append_image` and `generate` are generators: each yields every pass just before running it. So the harness
    knows to which frame, phase and step an observation belongs, and can run two implementations in lockstep. The frame
    clock, the sampler and the caches belong to the implementation.

    A class with numerics of its own names them in a class attribute OPTIONS (see `Numerics.options`).
    """

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None: ...

    def describe(self) -> dict[str, str]:
        """Version, attention formulation, patches: what else identifies this run. Goes into the manifest."""
        ...

    def sites(self) -> Mapping[str, Site]:
        """The sites that this implementation has, by their official names (see harness.families.waypoint.sites)."""
        ...

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written. `sigmas` [S+1] fp32, ending in 0."""
        ...

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame: `image` [360,640,3] uint8 is encoded and written to the caches with idle controls."""
        ...

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame from `noise` [1,1,C,h*ph,w*pw] fp32: denoise, write the caches, decode."""
        ...
