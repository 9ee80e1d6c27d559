"""Trials: one fault, several at once, or none, and what the instrument says of them."""

import time
from collections.abc import Sequence

from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.card import CleanRow, FaultRow, StackedRow
from waypoint_parity.harness.explain.scorecard.fault import ExpectedAt, Fault, Harmless
from waypoint_parity.harness.judge.comparison import SiteResult
from waypoint_parity.harness.run.family import part_named

# The smallest size that is detected is looked for among halves of the seeded one, as many as these.
MOST_HALVINGS = 24


def try_fault(bench: Bench, fault: Fault, *, sizes: bool) -> FaultRow:
    """One fault; of one that has a size also the smallest that is seen, where `sizes` are wanted."""
    started = time.perf_counter()
    case = bench.case(fault.stage, [fault.change])
    blame = bench.blame(case)
    rank = next((place for place, cause in enumerate(blame.causes, 1) if cause.part == fault.part), None)
    true = None if rank is None else blame.causes[rank - 1]
    smallest, missed = _limits(bench, fault) if sizes and fault.size is not None else (None, None)
    return FaultRow(
        name=fault.name,
        stage=fault.stage.name,
        detected=not blame.comparison,
        first=None if blame.comparison.first is None else str(blame.comparison.first.key),
        expected=str(fault.first.key),
        first_site_right=_is_at(blame.comparison.first, fault.first),
        part=fault.part,
        blamed=[cause.part for cause in blame.causes],
        group_right=bool(blame.causes)
        and blame.causes[0].group == part_named(fault.part, case.checkpoint.family).group,
        rank=rank,
        restored=blame.restored,
        contradictions=blame.contradictions,
        necessity=None if true is None else true.necessity,
        sufficiency=None if true is None else true.sufficiency,
        kinds=[] if true is None else [explanation.kind for explanation in true.explanations],
        proven=[] if true is None else true.proofs,
        refuted=[] if true is None else true.refuted,
        seconds=time.perf_counter() - started,
        smallest=smallest,
        missed=missed,
        unit=None if fault.size is None else fault.size.unit,
    )


def try_stacked(bench: Bench, faults: Sequence[Fault]) -> StackedRow:
    """Several faults at once, on the longest of their stages."""
    started = time.perf_counter()
    stage = max((fault.stage for fault in faults), key=bench.units)
    blame = bench.blame(bench.case(stage, [fault.change for fault in faults]))
    return StackedRow(
        names=[fault.name for fault in faults],
        parts=[fault.part for fault in faults],
        blamed=[cause.part for cause in blame.causes],
        restored=blame.restored,
        contradictions=blame.contradictions,
        seconds=time.perf_counter() - started,
    )


def try_harmless(bench: Bench, harmless: Harmless) -> CleanRow:
    """No fault: any divergence, and any part that is blamed, is a false alarm."""
    started = time.perf_counter()
    blame = bench.blame(bench.case(harmless.stage, [harmless.change], seed=harmless.seed))
    return CleanRow(
        name=harmless.name,
        stage=harmless.stage.name,
        verdict=blame.comparison.verdict,
        alarm=_alarm(blame),
        seconds=time.perf_counter() - started,
    )


def _alarm(blame: Blame) -> str | None:
    if not blame.comparison:
        return str(blame.comparison.first or blame.comparison.reason)
    if blame.causes:
        return f"{blame.causes[0].name}: {blame.causes[0].first}"
    return None


def _limits(bench: Bench, fault: Fault) -> tuple[float | None, float | None]:
    """The smallest size that is detected at the right site, among halves of the seeded one; and the next smaller one.

    None where even the seeded size is not detected, or the smallest tried still is.
    """
    size = fault.size
    assert size is not None, f"{fault.name} has no size"

    def seen(halvings: int) -> bool:
        case = bench.case(fault.stage, [size.change(size.seeded / 2**halvings)])
        return _is_at(bench.compare(case).first, fault.first)

    if not seen(0):
        return None, size.seeded
    most, least = MOST_HALVINGS, 0
    if seen(most):
        return size.seeded / 2**most, None
    # Detected at `least` halvings, missed at `most`.
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (middle, most) if seen(middle) else (least, middle)
    return size.seeded / 2**least, size.seeded / 2**most


def _is_at(first: SiteResult | None, place: ExpectedAt) -> bool:
    return first is not None and first.key == place.key
