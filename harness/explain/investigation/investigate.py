"""The investigation of one cell: its pictures, its latents, and where the difference was born."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import read_pixels
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.investigation.birth import birth
from waypoint_parity.harness.explain.investigation.crossing import NO_DECODING, Recorded, cross_decode
from waypoint_parity.harness.explain.investigation.latents import final_latents, read_latents
from waypoint_parity.harness.explain.investigation.pictures import pictures
from waypoint_parity.harness.explain.investigation.result import (
    INVESTIGATION_SCHEMA,
    CrossedPicture,
    Investigation,
    Picture,
)
from waypoint_parity.harness.explain.investigation.trajectory import trajectory
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.record.records import picture_path
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Order
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import order_of

_SIDES = "reference", "candidate"
_ONLY_DUMPS = "only the dumps were there, and no implementation to decode with"


def investigate(
    folder: Path,
    reference: Adapter,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    comparison: Comparison,
) -> Investigation:
    """Investigate the cell whose dumps are `reference` and `candidate` below `folder`, and whose comparison is given.

    The first, the worst and the last of the pictures that differ in a session that diverged are decoded across; the
    adapters then start sessions of their own.
    Raises UserError for a dump that is broken or incomplete.
    """

    def cross(seen: list[Picture]) -> list[CrossedPicture] | str:
        return _cross(folder, reference, candidate, checkpoint, scenario, seen)

    return _investigated(folder, checkpoint.family, order_of(scenario, checkpoint), comparison, cross)


def investigate_dumps(folder: Path, family: Family, order: Order, comparison: Comparison) -> Investigation:
    """The same of two dumps without their implementations: nothing is decoded across."""
    return _investigated(folder, family, order, comparison, lambda seen: _ONLY_DUMPS)


def _investigated(
    folder: Path,
    family: Family,
    order: Order,
    comparison: Comparison,
    cross: Callable[[list[Picture]], list[CrossedPicture] | str],
) -> Investigation:
    dumps = folder / _SIDES[0], folder / _SIDES[1]
    seen, crossing, not_crossed = pictures(*dumps, comparison), list[CrossedPicture](), None
    if comparison.verdict is Verdict.DIVERGED:
        answer = cross(seen)
        crossing, not_crossed = ([], answer) if isinstance(answer, str) else (answer, None)
    return Investigation(
        schema=INVESTIGATION_SCHEMA,
        pictures=seen,
        trajectory=trajectory(*dumps, family, order),
        crossing=crossing,
        not_crossed=not_crossed,
        birth=birth(comparison, seen, crossing, None, family),
    )


def with_blame(investigation: Investigation, blame: Blame, family: Family) -> Investigation:
    """`investigation` of the cell that `blame` was searched on, with what that tells of the birth."""
    born = birth(blame.comparison, investigation.pictures, investigation.crossing, blame, family)
    return msgspec.structs.replace(investigation, birth=born)


def _cross(
    folder: Path,
    reference: Adapter,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    seen: list[Picture],
) -> list[CrossedPicture] | str:
    if not seen:
        return "there is no picture that both sides show"
    differing = [picture.metrics for picture in seen if not picture.metrics.within_noise]
    if not differing:
        return "the pictures differ by no more than noise"
    if checkpoint.family.decoding is None:
        return NO_DECODING
    # Each costs four decodings: the first that differs, the worst and the last tell as much as all.
    worst = max(differing, key=lambda metrics: metrics.mean_abs)
    bounds = {metrics.at: metrics.bound for metrics in (differing[0], worst, differing[-1])}
    site, order = checkpoint.family.decoding.latent, order_of(scenario, checkpoint)

    def recorded(side: str) -> Recorded:
        latents = final_latents(read_latents(folder / side, checkpoint.family), site, order)
        return Recorded(latents, {at: read_pixels(picture_path(folder / side, at)) for at in bounds})

    both = recorded(_SIDES[0]), recorded(_SIDES[1])
    return cross_decode(reference, candidate, checkpoint, scenario, both, bounds)
