"""Driving one implementation through a scenario, pass by pass."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from waypoint_parity.harness.progress import moved
from waypoint_parity.harness.run.adapter import Adapter, Pass
from waypoint_parity.harness.run.engine import checked_pass, engine_works, name_of, no_session
from waypoint_parity.harness.run.keys import At, Key, Order
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.worker import exact_arithmetic

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint


class Watcher(Protocol):
    """What follows a session: a tap. `last` is what was seen last."""

    last: Key | None

    def begin(self, unit: int, at: Pass) -> None:
        """Everything shown from now on belongs to pass `at` of `unit`; the pass before is over."""
        ...


def passes(
    adapter: Adapter, scenario: Scenario, checkpoint: "Checkpoint", watcher: Watcher | None
) -> Iterator[tuple[int, Pass]]:
    """(unit, pass) of a session of `adapter`, each yielded just before it runs; advance under `exact_arithmetic`.

    Raises EngineError where the implementation fails, and UserError where what it announces is no pass.
    """
    family, geometry = checkpoint.family, checkpoint.geometry
    phases = {phase for row in family.sites.rows for phase in row.phases}
    phases |= {at.phase for _, at in family.session(scenario, geometry)}
    running: tuple[int, Pass] | None = None

    def doing() -> str:
        if running is None:
            return "before its first pass"
        unit, at = running
        last = None if watcher is None else watcher.last
        behind = f", behind {last}" if last is not None else ""
        return f"in unit {unit}, {at.phase} step {at.step}{behind}"

    name = name_of(adapter)
    # A mode that follows the implementation is not to take our numbers for constants of its code.
    with torch._C.DisableTorchFunction():
        given = family.prepared(scenario, geometry)
        # Of its own: what one side writes into its inputs, the other one must not see.
        given = given.with_tensors(**{field: tensor.clone() for field, tensor in given.tensors.items()})
    with engine_works(name, doing):
        session: object = adapter.session(given)
    if not isinstance(session, Iterator):
        raise no_session(adapter, f"session() that returns {type(session).__name__}")
    while True:
        with engine_works(name, doing):
            announced = next(session, None)
        if announced is None:
            break
        running = checked_pass(adapter, announced, phases)
        unit, at = running
        moved(f"{name}, {family.unit_name} {unit} of {scenario.units}, {at.phase} step {at.step}")
        if watcher is not None:
            watcher.begin(*running)
        yield running
    if running is None:
        raise no_session(adapter, "not one pass")


@exact_arithmetic()
def run(adapter: Adapter, scenario: Scenario, checkpoint: "Checkpoint", watcher: Watcher | None = None) -> None:
    """Run the whole session."""
    deque(passes(adapter, scenario, checkpoint, watcher), maxlen=0)


# What a step is run within; None stands for what comes before the first.
Within = Callable[[At | None], AbstractContextManager[Any]]


class Paced:
    """A session that runs one step at a time, each of them `within` a context. `at` is the next, None at the end."""

    def __init__(self, session: Iterator[tuple[int, Pass]], within: Within = lambda at: nullcontext()) -> None:
        self._session = session
        self._within = within
        self.at: At | None = None
        self._announce()

    def run(self) -> None:
        """Run the next step, which has been announced: all of its passes."""
        at = self.at
        while self.at is not None and self.at == at:
            self._announce()

    def _announce(self) -> None:
        # A pass runs while its session is advanced to the next one.
        with self._within(self.at):
            announced = next(self._session, None)
        self.at = None if announced is None else announced[1].at(announced[0])


def keep_pace(sessions: Sequence[Paced], order: Order, alone: Callable[[At, list[int]], None] | None = None) -> None:
    """Run all to the end, each step of one just before the same step of the next.

    So any of them may answer from another process: the others wait for it at the end of a step. `alone` is told of
    every step that only some of them have, with their indices.
    """
    behind: dict[int, At] = {}
    while waiting := {index: session.at for index, session in enumerate(sessions) if session.at is not None}:
        first = waiting[min(waiting, key=lambda index: order.rank(waiting[index], behind.get(index)))]
        those = [index for index, at in waiting.items() if at == first]
        if alone is not None and len(those) < len(sessions):
            alone(first, those)
        for index in those:
            sessions[index].run()
            if first in order:
                behind[index] = first


def steps(scenario: Scenario, checkpoint: "Checkpoint") -> list[At]:
    """Every step of a right implementation's session, in order."""
    planned = checkpoint.family.session(scenario, checkpoint.geometry)
    return list(dict.fromkeys(at.at(unit) for unit, at in planned))


def order_of(scenario: Scenario, checkpoint: "Checkpoint") -> Order:
    """The order of a session's steps."""
    return Order(steps(scenario, checkpoint))


def expected_keys(scenario: Scenario, checkpoint: "Checkpoint", *, optional: Collection[str] = ()) -> Iterator[Key]:
    """Every observation of a right implementation's session, in the order of execution.

    A site that an implementation may do without is expected only where it is among `optional`.
    """
    table = checkpoint.family.table(checkpoint.geometry, scenario)
    seen: set[Key] = set()
    for unit, at in checkpoint.family.session(scenario, checkpoint.geometry):
        for row, branch in table.shown(at.phase, at.step, at.branches):
            # What all branches of a step share is shown once, in whatever number of passes they are evaluated.
            key = Key(unit, at.phase, at.step, row.name, branch)
            if (row.name in optional or not row.optional) and key not in seen:
                seen.add(key)
                yield key


def counting(scenario: Scenario, checkpoint: "Checkpoint") -> Callable[[Key], Tensor | None]:
    """Which positions of an observation count, in a session of the scenario."""
    return lambda key: checkpoint.family.counts(key, scenario, checkpoint.geometry)
