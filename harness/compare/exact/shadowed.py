"""An implementation that was built, and runs, under its exact shadow."""

import math
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadow import Shadow
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import At, is_input
from waypoint_parity.harness.run.remote import Exactly, Remote
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Within, run
from waypoint_parity.harness.run.taps import Observation, Sink, Taps
from waypoint_parity.harness.run.worker import EXACT, Raw, parts

# The files of a shadow, each before those that import it.
_SENT = ("rounding", "forms", "shadow")


@dataclass(frozen=True)
class Shadowed:
    """An adapter and the shadow under which it was built, which each of its sessions is to run under too."""

    adapter: Adapter
    shadow: Shadow
    checkpoint: Checkpoint
    # Digests of the inputs that a session is given; and what could not be followed while the model was built.
    _inputs: set[str]
    _built: tuple[Counter[str], Counter[str]]

    def expect(self, scenario: Scenario) -> None:
        """Prepare for sessions of this scenario: its tensors, whole or unit by unit, are exact inputs."""
        self.shadow.below, self.shadow.foreign = map(Counter, self._built)
        prepared = self.checkpoint.family.prepared(scenario, self.checkpoint.geometry)
        self._inputs.clear()
        self._inputs.update(fast_digest(part) for tensor in prepared.tensors.values() for part in parts(tensor))

    def watched(self, scenario: Scenario, observe: Callable[[Observation], None]) -> None:
        """Run a session, and hand on everything that it shows, with exact values."""
        self.expect(scenario)
        with (
            Taps(self.adapter.sites(), lambda seen: observe(with_exact(seen, self.shadow)), replaces=False) as taps,
            self.shadow,
        ):
            run(self.adapter, scenario, self.checkpoint, taps)

    def following(self, units: Collection[int] | None = None, phases: Collection[str] | None = None) -> Within:
        """What each step of a session runs within; its shadow follows these units and phases, all of them if None."""

        def within(at: At | None) -> AbstractContextManager[Any]:
            followed = at is None or ((units is None or at.unit in units) and (phases is None or at.phase in phases))
            self.shadow.follows = followed
            return self.shadow

        return within


def load_shadowed(
    implementation: str,
    checkpoint: Checkpoint,
    numerics: Numerics,
    *,
    lanes: int = 0,
    constants_rounded: bool = True,
) -> Shadowed:
    """Load an implementation under an exact shadow (see there for the options); see registry.load."""
    remote = registry.find(registry.split_options(implementation)[0])
    if issubclass(remote, Remote):
        return _load_remote(implementation, checkpoint, numerics, lanes, constants_rounded=constants_rounded)
    weights = {fast_digest(tensor) for files in checkpoint.files.values() for _, tensor in files.stream()}
    inputs: set[str] = set()

    def given(x: Tensor) -> bool:
        if x.is_complex():
            return False
        digest = fast_digest(x.detach().cpu())
        return digest in weights or digest in inputs

    shadow = Shadow(lanes=lanes, given=given, constants_rounded=constants_rounded)
    with shadow, torch.no_grad():
        adapter = registry.load(implementation, checkpoint, numerics)
    shadow.settle()
    return Shadowed(adapter, shadow, checkpoint, inputs, (shadow.below, shadow.foreign))


def _load_remote(
    implementation: str, checkpoint: Checkpoint, numerics: Numerics, lanes: int, *, constants_rounded: bool
) -> Shadowed:
    """The same of an implementation in another process: the shadow runs there, and its values come along."""
    stored = (tensor for files in checkpoint.files.values() for _, tensor in files.stream())
    asked = {
        "lanes": lanes,
        "constants_rounded": constants_rounded,
        "weights": sorted({Raw.of(tensor).digest for tensor in stored}),
        "sources": {name: _source(name) for name in _SENT},
    }
    shadow = Shadow(lanes=lanes, constants_rounded=constants_rounded)
    adapter = registry.load(implementation, checkpoint, numerics, exact=Exactly(asked, shadow))
    return Shadowed(adapter, shadow, checkpoint, set(), (shadow.below, shadow.foreign))


def _source(name: str) -> str:
    """A file of the shadow, which needs torch and the others: under the name that they have in a worker."""
    return (Path(__file__).parent / f"{name}.py").read_text().replace(__package__ or "", EXACT)


def with_exact(seen: Observation, shadow: Shadow) -> Observation:
    """What a site shows, with its exact value where it is floating."""
    if not seen.tensor.is_floating_point():
        return seen
    exact = shadow.of(seen.tensor)
    return replace(seen, exact=exact, lost=shadow.lost(seen.tensor), spread=_spread(seen.tensor, exact, shadow))


def _spread(x: Tensor, exact: Tensor, shadow: Shadow) -> float | None:
    """The root mean square distance of the disturbed lanes from the exact one, relative to it; None without lanes."""
    disturbed = [float((shadow.of(x, lane) - exact).norm()) for lane in range(1, shadow.lanes)]
    if not disturbed:
        return None
    norm = float(exact.norm())
    return math.hypot(*disturbed) / math.sqrt(len(disturbed)) / norm if norm else math.inf


class ExactSink:
    """Hands what a run shows on to another sink, with exact values."""

    def __init__(self, sink: Sink, shadow: Shadow) -> None:
        self._sink = sink
        self._shadow = shadow

    def observe(self, seen: Observation) -> None:
        """Hand on one observation."""
        self._sink.observe(with_exact(seen, self._shadow))

    def end_pass(self) -> None:
        """Hand on that the pass is over."""
        self._sink.end_pass()


def is_followed(shadowed: Shadowed, scenario: Scenario) -> bool:
    """Whether the shadow is exact at every site of the scenario's first unit, inputs apart."""
    found: list[str | None] = []

    def see(seen: Observation) -> None:
        if not is_input(seen.key.site) and seen.exact is not None:
            found.append(seen.lost)

    shadowed.watched(shadowed.checkpoint.family.first_units(scenario, 1), see)
    return bool(found) and not any(found)
