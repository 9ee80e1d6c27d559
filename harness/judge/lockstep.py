"""Lockstep: two implementations in one process, step by step, compared by full tensors that never touch a disk."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.judge.comparison import FREE_RUNNING, TEACHER_FORCED, Comparison
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.pairing import Pairing
from waypoint_parity.harness.judge.truth import Truth
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.adapter import Adapter, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import (
    Paced,
    counting,
    exact_arithmetic,
    expected_keys,
    keep_pace,
    order_of,
    passes,
)
from waypoint_parity.harness.run.taps import Observation, Sink, recording
from waypoint_parity.harness.run.teacher import Teacher

EVIDENCE = "tensors"


@dataclass(frozen=True)
class Side:
    """One of the two: its name, its adapter, and the dump that its observations go to as well, if any."""

    name: str
    adapter: Adapter
    writer: DumpWriter | None = None


@exact_arithmetic()
def lockstep(
    reference: Side,
    candidate: Side,
    checkpoint: Checkpoint,
    scenario: Scenario,
    judgement: Judgement,
    *,
    truth: Adapter | None = None,
    teacher_forced: bool = False,
) -> Comparison:
    """Run a session of both sides, each step of the reference just before the candidate's, and compare every site.

    `truth`: the reference in fp32, from which the distance of either side is taken too. `teacher_forced`: the
    candidate's caches and latents follow the reference after every unit; raises UserError where they cannot (see
    harness.run.teacher).
    """
    family, geometry = checkpoint.family, checkpoint.geometry
    sites = [side.adapter.sites() for side in (reference, candidate)]
    common = sites[0].keys() & sites[1].keys()
    third = Truth()
    pairing = Pairing(judgement, common, family, geometry, truth=third, teacher_forced=teacher_forced)
    teacher = Teacher(sites[1], family.table(geometry, scenario)) if teacher_forced else None
    watchers = ([pairing.reference] + ([teacher.observe] if teacher else []), [pairing.candidate])
    with ExitStack() as stack:

        def session(adapter: Adapter, watched: Mapping[str, Site], sink: Sink) -> Paced:
            counts = counting(scenario, checkpoint)
            taps = stack.enter_context(recording(watched, sink, counts=counts))
            return Paced(passes(adapter, scenario, checkpoint, taps))

        sessions = [] if truth is None else [session(truth, truth.sites(), _Sink([third.observe], None))]
        for side, watched, takers in zip((reference, candidate), sites, watchers, strict=True):
            if side.writer is not None:
                stack.enter_context(side.writer)
            sessions.append(session(side.adapter, watched, _Sink(takers, side.writer)))
        if teacher is not None:
            stack.enter_context(teacher)  # its hooks come after the recording ones
        keep_pace(sessions, order_of(scenario, checkpoint))
    pairing.close()
    expected = Counter(key.rung for key in expected_keys(scenario, checkpoint, optional=common))
    comparison = pairing.ledger.close(
        reference.name, candidate.name, evidence=EVIDENCE, expected=expected, pictures=pairing.pictures
    )
    rollout = TEACHER_FORCED if teacher_forced else FREE_RUNNING
    if comparison.reason is not None:
        return msgspec.structs.replace(comparison, rollout=rollout)
    return third.annotate(msgspec.structs.replace(comparison, rollout=rollout, slots=pairing.slots.faults))


class _Sink:
    """The sink of one side's recorder: what it sees goes to the takers, and to the dump where there is one."""

    def __init__(self, takers: Sequence[Callable[[Observation], None]], writer: DumpWriter | None) -> None:
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
