"""Lockstep: two implementations in one process, step by step, their tensors paired without ever touching a disk."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadow import Shadow
from waypoint_parity.harness.compare.exact.shadowed import ExactSink
from waypoint_parity.harness.compare.join import CANDIDATE, OTHER, SIDES, Join, SideName
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.adapter import Adapter, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Paced, counting, keep_pace, order_of, passes
from waypoint_parity.harness.run.taps import Observation, Sink, recording
from waypoint_parity.harness.run.teacher import Teacher
from waypoint_parity.harness.run.worker import exact_arithmetic

Take = Callable[[Observation], None]


@dataclass(frozen=True)
class Side:
    """One of the two: its name, its adapter, and the dump that its observations go to as well, if any.

    `shadow`: the exact shadow under which the adapter was built, if it was.
    """

    name: str
    adapter: Adapter
    writer: DumpWriter | None = None
    shadow: Shadow | None = None


class TensorTaker(Protocol):
    """Takes what two running implementations show. Tensors may be reused in place: who keeps one clones it."""

    def seen(self, side: SideName, seen: Observation) -> None:
        """Take what one side shows, before it is paired."""
        ...

    def pair(self, order: int, actual: Observation, expected: Observation) -> None:
        """Take what both sides showed at the same key; `order` is its place in the reference's execution."""
        ...

    def missing(self, order: int, key: Key, *, lacking: SideName, seen_elsewhere: bool) -> None:
        """Only one side showed `key`. `seen_elsewhere`: the other one showed the site in other passes."""
        ...


@exact_arithmetic()
def run_in_lockstep(
    reference: Side,
    candidate: Side,
    checkpoint: Checkpoint,
    scenario: Scenario,
    taker: TensorTaker,
    *,
    beside: tuple[Adapter, Take] | None = None,
    teacher_forced: bool = False,
) -> Collection[str]:
    """Run a session of both sides, each step of the reference just before the candidate's, and hand on every pair.

    `beside`: an implementation that runs each step before both, and what takes its observations. `teacher_forced`: the
    candidate's caches and latents follow the reference after every unit; raises UserError where they cannot (see
    harness.run.teacher). Returns the sites that both sides have.
    """
    sites = [side.adapter.sites() for side in (reference, candidate)]
    common = sites[0].keys() & sites[1].keys()
    join = TensorJoin(common, taker)
    teacher = None
    takers: list[list[Take]] = [[partial(join.show, side)] for side in SIDES]
    if teacher_forced:
        teacher = Teacher(sites[1], checkpoint.family.table(checkpoint.geometry, scenario))
        takers[0].append(teacher.observe)
    with ExitStack() as stack:

        def session(adapter: Adapter, watched: Mapping[str, Site], sink: Sink, shadow: Shadow | None = None) -> Paced:
            counts = counting(scenario, checkpoint)
            taps = stack.enter_context(recording(watched, sink, counts=counts))
            return Paced(passes(adapter, scenario, checkpoint, taps), lambda at: shadow or nullcontext())

        sessions = []
        if beside is not None:
            sessions.append(session(beside[0], beside[0].sites(), _Sink([beside[1]], None)))
        for side, watched, takes in zip((reference, candidate), sites, takers, strict=True):
            if side.writer is not None:
                stack.enter_context(side.writer)
            sink: Sink = _Sink(takes, side.writer)
            if side.shadow is not None:
                sink = ExactSink(sink, side.shadow)
            sessions.append(session(side.adapter, watched, sink, side.shadow))
        if teacher is not None:
            stack.enter_context(teacher)  # its hooks come after the recording ones
        keep_pace(sessions, order_of(scenario, checkpoint))
    join.close()
    return common


class TensorJoin(Join[Key, tuple[int, Observation]]):
    """Joins what both sides show by key, and hands it on. A tensor is kept only until its partner comes."""

    def __init__(self, common: Collection[str], taker: TensorTaker) -> None:
        """`common`: sites that both sides have. Tensors of other sites are not kept waiting for a partner."""
        super().__init__()
        self._common = common
        self._taker = taker
        self._paired: set[str] = set()
        self._order = count()

    def show(self, side: SideName, seen: Observation) -> None:
        """Take what one side shows."""
        self._taker.seen(side, seen)
        partner = self.partner(side, seen.key)
        order = partner[0] if partner is not None and side == CANDIDATE else next(self._order)
        if partner is not None:
            actual, expected = (seen, partner[1]) if side == CANDIDATE else (partner[1], seen)
            self._paired.add(seen.key.site)
            self._taker.pair(order, actual, expected)
        elif seen.key.site in self._common:
            # An implementation may reuse the tensor for its next pass.
            self.waiting[side][seen.key] = order, seen.kept()
        else:
            self._taker.missing(order, seen.key, lacking=OTHER[side], seen_elsewhere=False)

    def close(self) -> None:
        """Whatever still waits has no partner."""
        for side in SIDES:
            for key, (order, _) in self.waiting[side].items():
                self._taker.missing(order, key, lacking=OTHER[side], seen_elsewhere=key.site in self._paired)


class _Sink:
    """The sink of one side's recorder: what it sees goes to the takers, and to the dump where there is one."""

    def __init__(self, takers: Sequence[Take], writer: DumpWriter | None) -> None:
        self._takers = takers
        self._writer = writer

    def observe(self, seen: Observation) -> None:
        for take in self._takers:
            take(seen)
        if self._writer is not None:
            self._writer.observe(seen)

    def end_pass(self) -> None:
        if self._writer is not None:
            self._writer.end_pass()
