"""Live: two implementations in lockstep, judged by their full tensors while they run."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadow import Shadow
from waypoint_parity.harness.compare.join import CANDIDATE, REFERENCE, SideName
from waypoint_parity.harness.compare.lockstep import Side, run_in_lockstep
from waypoint_parity.harness.compare.pictures import PictureMetrics, picture_metrics
from waypoint_parity.harness.compare.tensor_error import exact_distance, rounded_off, tensor_error
from waypoint_parity.harness.judge.comparison import FREE_RUNNING, LIVE, TEACHER_FORCED, Comparison, Mathematics
from waypoint_parity.harness.judge.judgement import FACTOR, FLOOR, SAME_MATHEMATICS, Judgement
from waypoint_parity.harness.judge.precision import PrecisionRun
from waypoint_parity.harness.judge.table import VerdictTable
from waypoint_parity.harness.judge.truth import Truth
from waypoint_parity.harness.record.writer import pictures_shown
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import Key, Rung, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation

# How much further from its exact values the candidate may be than the reference from its own, and than at the same site
# in units whose precision was measured, before it is asked for. Both inherit errors, so this is a sieve and no verdict.
ROUGHER = 8.0
# Less than a unit of fp32 is no rounding to speak of.
_UNIT = 2.0**-23


def lockstep(
    reference: Side,
    candidate: Side,
    checkpoint: Checkpoint,
    scenario: Scenario,
    judgement: Judgement,
    *,
    truth: Adapter | None = None,
    local: PrecisionRun | None = None,
    grows: Mapping[Key, float] | None = None,
    teacher_forced: bool = False,
) -> Comparison:
    """Run a session of both sides in lockstep, and compare every site.

    `truth`: the reference in fp32, from which the distance of either side is taken too. `local`: what a run of the same
    session with the reference fed showed. `grows`: how far rounding alone takes each observation (judge.growth), where
    that is asked of what has no exact values; the reference's own error stands for what it does not have.
    `teacher_forced`: see harness.compare.lockstep.
    """
    third = Truth()
    named: dict[SideName, Collection[str]] = {
        REFERENCE: reference.adapter.sites().keys(),
        CANDIDATE: candidate.adapter.sites().keys(),
    }
    judging = _Judging(judgement, checkpoint, third, named, local, grows, teacher_forced=teacher_forced)
    beside = None if truth is None else (truth, third.observe)
    common = run_in_lockstep(
        reference, candidate, checkpoint, scenario, judging, beside=beside, teacher_forced=teacher_forced
    )
    expected = Counter(key.rung for key in expected_keys(scenario, checkpoint, optional=common))
    comparison = judging.table.close(
        reference.name, candidate.name, evidence=LIVE, expected=expected, pictures=judging.pictures
    )
    rollout = TEACHER_FORCED if teacher_forced else FREE_RUNNING
    if comparison.reason is not None:
        return msgspec.structs.replace(comparison, rollout=rollout)
    comparison = third.annotate(msgspec.structs.replace(comparison, rollout=rollout, slots=judging.slots.faults))
    return msgspec.structs.replace(
        comparison,
        mathematics=judging.mathematics({side.name: side.shadow for side in (reference, candidate)}),
        precision=None if local is None else local.precision,
    )


def rougher_units(roughness: Mapping[int, Mapping[Rung, float]], measured: Collection[int]) -> list[int]:
    """The units not measured in which some site is ROUGHER than the reference, and than in any unit that was.

    `roughness`: by unit and site, how many times further from its exact values the candidate is than the reference.
    """
    known: dict[Rung, float] = {}
    for unit in measured:
        for rung, times in roughness.get(unit, {}).items():
            known[rung] = max(times, known.get(rung, 1.0))

    def is_rougher(unit: int) -> bool:
        return any(times > ROUGHER * known.get(rung, 1.0) for rung, times in roughness[unit].items())

    return [unit for unit in sorted(roughness) if unit not in measured and is_rougher(unit)]


class _Judging:
    """Takes what a lockstep hands on: enters each pair into the verdict table, and follows caches and pictures."""

    def __init__(
        self,
        judgement: Judgement,
        checkpoint: Checkpoint,
        truth: Truth,
        named: Mapping[SideName, Collection[str]],
        local: PrecisionRun | None,
        grows: Mapping[Key, float] | None,
        *,
        teacher_forced: bool,
    ) -> None:
        """`truth` is told of every pair; `named` are the sites that each side says it has."""
        family = checkpoint.family
        self.table = VerdictTable(judgement, family, named=named)
        self.pictures: list[PictureMetrics] = []
        self._family = family
        self._caches = family.caches.describe(checkpoint.geometry)
        self.slots = family.caches.comparison(self._caches, teacher_forced=teacher_forced)
        self._truth = truth
        self._local = {} if local is None else local.excess
        self._grows = grows
        # By unit: how many times further from its exact values the candidate is than the reference, at each site.
        self._rougher: dict[int, dict[Rung, float]] = defaultdict(dict)
        self._measured = set() if local is None else set(local.units)
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

    def pair(self, order: int, actual: Observation, expected: Observation) -> None:
        """Judge what both sides showed."""
        key, shown, wanted = expected.key, actual.tensor, expected.tensor
        error = replace(
            tensor_error(shown, wanted),
            exact=self._distance(actual, expected),
            local=self._local.get(key),
            grown=self._grown(actual, expected),
        )
        self.table.pair(order, key, error)
        self._truth.compare(key, shown, wanted)
        if self._family.sites.kind(key.site, key.phase) is Kind.PICTURE and shown.shape == wanted.shape:
            pictures, right = pictures_shown(key, shown), pictures_shown(key, wanted)
            self.pictures += [picture_metrics(at, pictures[at], right[at]) for at in right]

    def _distance(self, actual: Observation, expected: Observation) -> float | None:
        """The distance of the exact values; None where they are not known, or differ because they are not exact."""
        key = expected.key
        distance = exact_distance(actual, expected)
        if distance is None or (distance > SAME_MATHEMATICS and (actual.lost or expected.lost)):
            return None
        if not is_input(key.site):
            assert expected.exact is not None
            least = max(rounded_off(expected), _UNIT * float(expected.exact.norm()))
            off = rounded_off(actual)
            self._rougher[key.unit][key.rung] = off / least if least else math.inf if off else 0.0
        return distance

    def _grown(self, actual: Observation, expected: Observation) -> float | None:
        """The free-running error from the exact value over what rounding grows to; None where that is not asked."""
        exact, unlike = expected.exact, actual.tensor.shape != expected.tensor.shape
        if self._grows is None or exact is None or expected.lost or unlike or is_input(expected.key.site):
            return None
        norm = float(exact.norm())
        most = max(rounded_off(expected), norm * max(FLOOR, self._grows.get(expected.key, 0.0)))
        off = float((actual.tensor.to(exact) - exact).norm())
        return off / (FACTOR * most) if most else math.nan

    def mathematics(self, shadows: Mapping[str, Shadow | None]) -> Mathematics | None:
        """What the exact values say; None where there are none."""
        unfollowed = {name: shadow.unfollowed for name, shadow in shadows.items() if shadow is not None}
        return self.table.mathematics(unfollowed, rougher=rougher_units(self._rougher, self._measured))

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
