"""Live: two implementations in lockstep, judged by their full tensors while they run."""

from collections import Counter
from itertools import count
from typing import Any

import msgspec
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.join import REFERENCE, SideName
from waypoint_parity.harness.compare.lockstep import Side, run_in_lockstep
from waypoint_parity.harness.compare.pictures import PictureMetrics, picture_metrics
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.judge.comparison import FREE_RUNNING, TEACHER_FORCED, Comparison
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.table import VerdictTable
from waypoint_parity.harness.judge.truth import Truth
from waypoint_parity.harness.record.writer import pictures_shown
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation

EVIDENCE = "tensors"


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
    """Run a session of both sides in lockstep, and compare every site.

    `truth`: the reference in fp32, from which the distance of either side is taken too. `teacher_forced`: see
    harness.compare.lockstep.
    """
    third = Truth()
    judging = _Judging(judgement, checkpoint, third, teacher_forced=teacher_forced)
    beside = None if truth is None else (truth, third.observe)
    common = run_in_lockstep(
        reference, candidate, checkpoint, scenario, judging, beside=beside, teacher_forced=teacher_forced
    )
    expected = Counter(key.rung for key in expected_keys(scenario, checkpoint, optional=common))
    comparison = judging.table.close(
        reference.name, candidate.name, evidence=EVIDENCE, expected=expected, pictures=judging.pictures
    )
    rollout = TEACHER_FORCED if teacher_forced else FREE_RUNNING
    if comparison.reason is not None:
        return msgspec.structs.replace(comparison, rollout=rollout)
    return third.annotate(msgspec.structs.replace(comparison, rollout=rollout, slots=judging.slots.faults))


class _Judging:
    """Takes what a lockstep hands on: enters each pair into the verdict table, and follows caches and pictures."""

    def __init__(self, judgement: Judgement, checkpoint: Checkpoint, truth: Truth, *, teacher_forced: bool) -> None:
        """`truth` is told of every pair."""
        family = checkpoint.family
        self.table = VerdictTable(judgement, family)
        self.pictures: list[PictureMetrics] = []
        self._family = family
        self._caches = family.caches.describe(checkpoint.geometry)
        self.slots = family.caches.comparison(self._caches, teacher_forced=teacher_forced)
        self._truth = truth
        self._order = count()

    def seen(self, side: SideName, seen: Observation) -> None:
        """Follow the caches of either side."""
        sign = self._sign(seen)
        if sign is None:
            return
        if side == REFERENCE:
            self.slots.reference(next(self._order), sign)
        else:
            self.slots.candidate(sign)

    def pair(self, order: int, key: Key, actual: Tensor, expected: Tensor) -> None:
        """Judge what both sides showed."""
        self.table.pair(order, key, tensor_error(actual, expected))
        self._truth.compare(key, actual, expected)
        if self._family.sites.kind(key.site, key.phase) is Kind.PICTURE and actual.shape == expected.shape:
            shown, wanted = pictures_shown(key, actual), pictures_shown(key, expected)
            self.pictures += [picture_metrics(at, shown[at], wanted[at]) for at in wanted]

    def missing(self, order: int, key: Key, *, lacking: SideName, seen_elsewhere: bool) -> None:
        """Enter what one side alone showed."""
        self.table.missing(order, key, lacking=lacking, seen_elsewhere=seen_elsewhere)

    def _sign(self, seen: Observation) -> Any:
        """What an observation tells of the caches, if anything; of an accelerator's, nothing."""
        tensor, caches = seen.tensor.detach(), self._family.caches
        if tensor.device.type != "cpu" or not caches.tells(seen.key.site):
            return None
        marks = caches.marks(seen.key.site, tensor, self._caches)
        digest = None if marks is not None else fast_digest(tensor)
        return caches.sign(seen.key, str(tensor.dtype), digest, marks)
