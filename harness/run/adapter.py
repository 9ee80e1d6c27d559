"""What the harness asks of an implementation, and the small values that cross that line.

Legend of the whole repository: B batch (always 1), N frames per call (always 1), F frames of a session, S denoise
steps, T tokens per frame, L ring capacity in tokens, H query heads, G key/value heads, D head width, M model width,
C latent channels, P prompt tokens, E prompt width, h,w token grid, ph,pw patch.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import SIDE_TIMEOUT
from waypoint_parity.harness.run.keys import At
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.worker import Watched

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Pass(NamedTuple):
    """One call of a model within a session, announced before it runs.

    `step` counts the steps of a phase from 0. `branches`: the evaluations that this call makes of the step; one call
    may make several, or several calls one each.
    """

    phase: str
    step: int = 0
    sigma: float | None = None
    branches: tuple[str, ...] = ("",)

    def at(self, unit: int) -> At:
        """The step that the pass belongs to."""
        return At(unit, self.phase, self.step)


@dataclass(frozen=True)
class Numerics:
    """How an implementation is to compute; part of a run's identity.

    `options` are an implementation's own numerics, by name, as in `world-engine+patched`.
    """

    dtype: torch.dtype
    device: torch.device
    compiled: bool = False
    options: tuple[str, ...] = ()
    # Seconds that an implementation in another process may be silent. It is no part of the identity.
    side_timeout: float = SIDE_TIMEOUT

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


def usable_device(name: str) -> torch.device:
    """The device of this name. Raises UserError where this torch build or this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name} cannot be used",
            found=str(error).splitlines()[0],
            expected="a device that this torch build and this machine have",
            do="give another device, or install a torch build for it",
        ) from error
    return device


def each_side(numerics: Numerics, compiled: Collection[str]) -> tuple[Numerics, Numerics]:
    """The numerics of reference and candidate, of which these sides compile themselves."""
    reference, candidate = (replace(numerics, compiled=side in compiled) for side in ("reference", "candidate"))
    return reference, candidate


# What a layout makes of an output: the site's tensor, one for each branch, or one for each of several calls.
Shown = Tensor | Mapping[str, Tensor] | Sequence[Tensor]


@dataclass(frozen=True)
class Site(Watched):
    """Where to watch: the module whose output is the site, and how that output becomes the official layout.

    `layout(output, inputs)` gets what the module returned and its positional inputs. `restore(official, output)` is the
    way back from what `layout` gives, in the same form: the output that the implementation is to go on with. Without a
    `layout` the output itself is the tensor; with one and no `restore` nothing can be put in the output's place. What a
    hook on `module` returns must be what the implementation goes on with.
    """

    module: nn.Module
    layout: Callable[[Any, tuple[Any, ...]], Shown] | None = None
    restore: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True)
class Hypothesis:
    """A mistake that a port may have made, as a change to a loaded reference.

    `kind` is one of its family's kinds of fault, or what a user calls one that `is_own`; `said` is what is changed, in
    words. `parts`: where this mistake shows; in any part that can have the kind if empty.
    """

    kind: str
    said: str
    change: Callable[[Any], None]
    is_own: bool = False
    parts: tuple[str, ...] = ()


class Adapter(Protocol):
    """Drives one implementation through sessions. It draws no noise of its own.

    A class with numerics of its own names them in a class attribute OPTIONS (see `Numerics.options`). A reference may
    have HYPOTHESES, which a search for causes tries.
    """

    def __init__(self, checkpoint: "Checkpoint", numerics: Numerics) -> None: ...

    def describe(self) -> dict[str, str]:
        """Version, attention formulation, patches: what else identifies this run. Goes into the manifest."""
        ...

    def sites(self) -> Mapping[str, Site]:
        """The sites that this implementation has, by the names of its family."""
        ...

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session: yield (unit, pass) of every pass just before running it.

        So the harness knows to which unit, phase and step an observation belongs, and can run two implementations in
        lockstep. Clock, sampler and caches belong to the implementation, and begin anew with every session.
        """
        ...
