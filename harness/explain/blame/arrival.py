"""Arrival: whether an implementation goes on with what is put in the place of a site's value, or only shows it.

A site whose module nothing reads looks like any other. An exchange at it would restore nothing, and every later error
would be taken for another cause. So where a search finds several, another value is put at the sites of each kind in
turn. Where nothing that is computed later changes by a bit, though it does in the reference, a site is idle: it can be
watched, and not patched.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.judge.noise_floor.harmless import Driven
from waypoint_parity.harness.run.adapter import Adapter, Shown, Site
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.sites import Kind, kind_of
from waypoint_parity.harness.run.taps import Observation, Taps
from waypoint_parity.harness.run.worker import exact_arithmetic

# A cache is read by the second unit first.
_UNITS = 2


def idle_sites(candidate: Adapter, reference: Adapter, checkpoint: Checkpoint, scenario: Scenario) -> set[str]:
    """The candidate's patchable sites at which a value does not arrive that does in the reference."""
    short = checkpoint.family.first_units(scenario, min(_UNITS, scenario.units))
    # Who reads an input, a cache or a mask, and when, differs between right implementations.
    given = (Kind.INPUT, Kind.CACHE, Kind.MASK)
    table = checkpoint.family.sites
    patchable = {
        name for name, site in candidate.sites().items() if site.is_patchable and table.kind(name) not in given
    }
    idle = _idle(candidate, patchable, checkpoint, short)
    return idle - _idle(reference, idle, checkpoint, short) if idle else idle


class Sealed(Driven):
    """An adapter some of whose sites can be watched and not patched."""

    def __init__(self, adapter: Adapter, sealed: Collection[str]) -> None:
        super().__init__(adapter)
        self._sealed = sealed

    def sites(self) -> Mapping[str, Site]:
        """The adapter's sites, some of them sealed."""
        return {name: _watched(site) if name in self._sealed else site for name, site in super().sites().items()}


def _watched(site: Site) -> Site:
    return replace(site, layout=site.layout or _as_it_is, restore=None)


def _as_it_is(output: Any, inputs: tuple[Any, ...]) -> Shown:
    shown: Shown = output
    return shown


def _idle(adapter: Adapter, names: Collection[str], checkpoint: Checkpoint, scenario: Scenario) -> set[str]:
    """Those of the sites at which another value changes nothing that the adapter shows later."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for name in names & adapter.sites().keys():
        kinds[kind_of(name)].add(name)
    right = _Probe({}, frozenset())
    _drive(adapter, right, checkpoint, scenario)
    idle: set[str] = set()
    for group in kinds.values():
        probe = _Probe(right.shown, group)
        _drive(adapter, probe, checkpoint, scenario)
        if probe.put and not probe.arrived:
            idle |= group
    return idle


class _Probe:
    """Puts other values at some sites, and notes whether anything else is then shown differently."""

    def __init__(self, right: Mapping[Key, str], others: Collection[str]) -> None:
        self.shown: dict[Key, str] = {}
        self.put = self.arrived = False
        self._right = right
        self._others = others

    def observe(self, seen: Observation) -> Tensor | None:
        """Take what a site shows; returns what takes its place, if anything."""
        if seen.key.site in self._others and seen.tensor.is_floating_point():
            self.put = True
            # A norm takes out a factor, and nothing both.
            return seen.tensor * 1.5 + 1
        digest = fast_digest(seen.tensor.detach().cpu())
        self.arrived |= self.put and self._right.get(seen.key) != digest
        self.shown[seen.key] = digest
        return None


@exact_arithmetic()
def _drive(adapter: Adapter, probe: _Probe, checkpoint: Checkpoint, scenario: Scenario) -> None:
    """Run a session, to the end of the pass in which a value arrived."""
    with Taps(adapter.sites(), probe.observe) as taps:
        for _ in passes(adapter, scenario, checkpoint, taps):
            if probe.arrived:
                break
