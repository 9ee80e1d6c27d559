"""How an implementation takes a checkpoint up: whether it fails, and what it leaves without values.

While it is constructed, fresh memory holds NaN and torch's initialisers do nothing; what holds NaN afterwards was
filled by nobody: a weight that the checkpoint did not reach, one shard of a merged weight, a buffer that is not stored
and was not computed either. A tensor that the implementation itself creates with values, such as torch.zeros, is not
told from one that it means to have them.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.configs import SideBySide, beside_implementation
from waypoint_parity.harness.errors import EngineError, UserError
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.modules import modules_of
from waypoint_parity.harness.run.worker import exact_arithmetic

# Fresh memory of an integer tensor holds the largest number, which only a wide type has no other use for.
_WIDE_INTEGERS = (torch.int32, torch.int64)
_AXES = ("rows", "columns")
_MOST_RANGES = 4


@dataclass(frozen=True)
class Unfilled:
    """A tensor of an implementation that was left without values, or a part of one: `where` says which."""

    name: str
    shape: tuple[int, ...]
    where: str

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}: {self.where}"


@contextmanager
def poisoned() -> Iterator[None]:
    """Let fresh memory hold NaN and let initialisers leave it; every setting is restored on leaving."""
    settings: Any = torch.utils.deterministic  # a module whose setting is a property, which no stub knows
    deterministic, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    initialisers = {name: value for name, value in vars(nn.init).items() if name[0] != "_" and name[-1] == "_"}
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = True
        for name in initialisers:
            setattr(nn.init, name, _left_alone)
        yield
    finally:
        for name, initialiser in initialisers.items():
            setattr(nn.init, name, initialiser)
        settings.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _left_alone(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """In place of every function of torch.nn.init."""
    return tensor


def unfilled(adapter: object) -> list[Unfilled]:
    """Every tensor of the modules of `adapter`, which was constructed under `poisoned`, that is not filled wholly."""
    found = []
    for name, tensor in _tensors(adapter):
        if tensor.is_meta:
            found.append(Unfilled(name, tuple(tensor.shape), "all of it, and it has no memory (meta device)"))
        elif (holes := _holes(tensor.detach())).any():
            found.append(Unfilled(name, tuple(tensor.shape), _where(holes)))
    return found


def _tensors(adapter: object) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and plain attributes, each tensor once, by its path from the adapter."""
    seen: set[int] = set()
    for root, outermost in modules_of(adapter).items():
        for path, module in outermost.named_modules(prefix=root):
            for name, value in (vars(module) | module._parameters | module._buffers).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}".removeprefix("."), value


def _holes(tensor: Tensor) -> Tensor:
    """Which elements nobody filled, as a mask of the tensor's shape."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor.isnan()
    if tensor.dtype in _WIDE_INTEGERS:
        return tensor == torch.iinfo(tensor.dtype).max
    return torch.zeros_like(tensor, dtype=torch.bool)


def _where(holes: Tensor) -> str:
    """The ranges along the first axis that is not concerned as a whole: a missing shard of a merged weight is one."""
    if holes.all():
        return "all of it"
    for axis in range(holes.ndim):
        concerned = holes.movedim(axis, 0).flatten(1).any(1) if holes.ndim > 1 else holes
        if not concerned.all():
            label = _AXES[axis] if axis < len(_AXES) else f"axis {axis}, indices"
            return f"{label} {', '.join(_ranges(concerned))} of {len(concerned)}"
    return f"{int(holes.sum())} of {holes.numel()} values"


def _ranges(concerned: Tensor) -> Iterator[str]:
    """The runs of true values as first..last; many short ones end in dots."""
    edges = concerned.to(torch.int8).diff(
        prepend=concerned.new_zeros(1, dtype=torch.int8), append=concerned.new_zeros(1, dtype=torch.int8)
    )
    firsts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    yield from (f"{first}..{end - 1}" for first, end in list(zip(firsts, ends, strict=True))[:_MOST_RANGES])
    if len(firsts) > _MOST_RANGES:
        yield "..."


@dataclass(frozen=True)
class Loading:
    """Why `implementation` failed to load a checkpoint, or what it left `unfilled`.

    `scratch` is memory without values that a session writes to, as it should: no fault.
    """

    implementation: str
    failure: str | None
    unfilled: list[Unfilled]
    scratch: list[Unfilled]
    configs: list[SideBySide]

    def __bool__(self) -> bool:
        return self.failure is None and not self.unfilled


def load_poisoned(implementation: str, checkpoint: Checkpoint, numerics: Numerics, *, sound: bool) -> Loading:
    """Load the checkpoint, and look for what nobody filled.

    Raises UserError where there is no such implementation, and where one refuses a checkpoint that is `sound`.
    """
    registry.find(registry.split_options(implementation)[0])
    try:
        with poisoned():
            adapter = registry.load(implementation, checkpoint, numerics)
    except Exception as error:  # whatever an implementation makes of a checkpoint that does not fit
        if sound and isinstance(error, UserError):
            raise
        words = error.found if isinstance(error, EngineError) else str(error).partition("\n")[0]
        return Loading(implementation, words or type(error).__name__, [], [], [])
    found = unfilled(adapter)
    remaining = _after_a_unit(adapter, checkpoint) if found else []
    return Loading(
        implementation,
        failure=None,
        unfilled=[one for one in found if one in remaining],
        scratch=[one for one in found if one not in remaining],
        configs=beside_implementation(checkpoint, implementation, adapter),
    )


def _after_a_unit(adapter: Adapter, checkpoint: Checkpoint) -> list[Unfilled]:
    """What is unfilled once a unit was generated, or was tried to."""
    family, geometry = checkpoint.family, checkpoint.geometry
    scenario = family.make(geometry, name="one unit", seed=0, units=1)
    # The lack of values may be what the unit fails of; it is reported, the consequence is not.
    with suppress(Exception), exact_arithmetic():
        deque(adapter.session(family.prepared(scenario, geometry)), maxlen=0)
    return unfilled(adapter)
