"""One component of a model alone: the calls that a session makes of it, and an implementation that makes these only.

A component is what has weights of its own, such as the transformer or the VAE. Its sites are those of its parts. What
they read and other parts make is its boundary: the values there are recorded from the reference's session, and given.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.run.adapter import Adapter, Pass, Site
from waypoint_parity.harness.run.engine import name_of
from waypoint_parity.harness.run.keys import Key, site_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import counting, run
from waypoint_parity.harness.run.taps import Observation, Taps

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

# What an adapter has besides `describe` and `sites` where it runs a component alone: see `ComponentAlone`.
METHODS = ("describe", "sites", "component")
# Runs one call of a component: its unit, its pass, and the inputs by the names of their sites.
RunCall = Callable[[int, Pass, Mapping[str, Tensor]], object]


class ComponentCall(NamedTuple):
    """One call of a component. `inputs` by the names of their sites, as the reference consumed or made them."""

    unit: int
    at: Pass
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class RecordedCalls:
    """The calls of a component in a session of the reference.

    `sites` are the component's. `given` is all that the reference showed at its boundary.
    """

    component: str
    sites: frozenset[str]
    calls: list[ComponentCall]
    given: Mapping[Key, Tensor]

    @property
    def phases(self) -> frozenset[str]:
        """The phases in which the component is called."""
        return frozenset(call.at.phase for call in self.calls)


def recorded_calls(component: str, reference: Adapter, checkpoint: "Checkpoint", scenario: Scenario) -> RecordedCalls:
    """Run a session of the reference, and keep what enters a component.

    Raises UserError where the family has no such component, or the session never calls it.
    """
    family = checkpoint.family
    parts = {part.name for part in family.parts if part.component == component}
    if not parts:
        raise UserError(
            f"{component}: no component of {family.name} can be run alone",
            found=component,
            expected=f"one of {listed(sorted({part.component for part in family.parts if part.component}))}",
            do="correct --component",
        )
    table = family.table(checkpoint.geometry, scenario)
    own = frozenset(row.name for row in table.rows if row.part in parts)
    # A name such as `latent` is shown by several parts.
    boundary = {name for row in table.rows if row.part in parts for name in row.reads} - own
    shown: dict[Key, Tensor] = {}

    def keep(seen: Observation) -> None:
        shown[seen.key] = seen.tensor.detach().clone()

    sites = {name: site for name, site in reference.sites().items() if name in boundary}
    with Taps(sites, keep, counts=counting(scenario, checkpoint), replaces=False) as taps:
        run(reference, scenario, checkpoint, taps)
    latest: dict[str, Tensor] = {}
    calls = []
    for unit, at in family.session(scenario, checkpoint.geometry):
        inputs: dict[str, Tensor] = {}
        # In the order of execution: a row sees what was shown before it, in this pass or in an earlier one.
        for row, branch in table.shown(at.phase, at.step, at.branches):
            if row.name in own:
                inputs |= {name: latest[name] for name in row.reads if name in latest and name not in inputs}
            elif row.name in boundary:
                value = shown.get(Key(unit, at.phase, at.step, row.name, branch))
                latest |= {} if value is None else {site_name(row.name, branch): value}
        if any(row.name in own for row, _ in table.shown(at.phase, at.step, at.branches)):
            calls.append(ComponentCall(unit, at, inputs))
    if not calls:
        raise UserError(
            f"{component}: the session never calls it",
            found=f"no pass of {scenario.name} that shows one of its sites",
            expected="a scenario whose session runs the component",
            do="give another --scenario",
        )
    return RecordedCalls(component, own, calls, shown)


class ComponentAlone:
    """An adapter whose session makes the recorded calls of a component, and nothing else.

    `component(name)` of the implementation begins anew, and returns what runs one call; None where it has no such
    component. A call is given unit, pass and inputs, and shows its sites as in any session.
    """

    def __init__(self, adapter: Any, recorded: RecordedCalls) -> None:
        self._adapter = adapter
        self._recorded = recorded

    def describe(self) -> dict[str, str]:
        """What identifies the implementation."""
        described: dict[str, str] = self._adapter.describe()
        return described

    def sites(self) -> Mapping[str, Site]:
        """The component's sites."""
        sites: Mapping[str, Site] = self._adapter.sites()
        return {name: site for name, site in sites.items() if name in self._recorded.sites}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Make the calls."""
        run_call: RunCall | None = self._adapter.component(self._recorded.component)
        if run_call is None:
            raise UserError(
                f"{name_of(self._adapter)}: does not run {self._recorded.component} alone",
                found=f"component({self._recorded.component!r}) that returns None",
                expected="a function that runs one call",
                do="return one, or leave --component out: whole sessions need none",
            )
        for unit, at, inputs in self._recorded.calls:
            yield unit, at
            # Of its own: what is written into an input must not reach a later call.
            run_call(unit, at, {name: value.clone() for name, value in inputs.items()})
