"""The origin of a divergence: the parts that may have made it, each with its place in the pipeline and what says so."""

from typing import NamedTuple

from waypoint_parity.harness.explain.blame.result import Blame, Cause
from waypoint_parity.harness.explain.investigation.result import Birthplace
from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, Verdict
from waypoint_parity.harness.run.family import Family, part_named
from waypoint_parity.harness.run.sites import Kind, SiteRow


class Origin(NamedTuple):
    """A place where a divergence may come from, and the sentence that says so."""

    place: Birthplace
    because: str


def origins(comparison: Comparison, blame: Blame | None, family: Family) -> list[Origin]:
    """Where the divergence may come from, the likeliest first: blame's causes, else the first divergence."""
    if blame is not None and blame.causes:
        return [Origin(_place(cause.part, family), _blamed(cause)) for cause in blame.causes]
    first = next((failure for failure in comparison.failures if failure.verdict is Verdict.DIVERGED), comparison.first)
    return [_of_first(first, comparison, family)] if first is not None else []


def _of_first(first: SiteResult, comparison: Comparison, family: Family) -> Origin:
    row = family.sites.of(first.site, first.phase) or family.sites.of(first.site)
    if row is None:
        return Origin("unknown", f"the first divergence, {first.site}, is of no part")
    if _was_right_without_a_history(row, first, comparison, family):
        return Origin(
            "cache",
            f"the {row.part} was right as long as there was no history, so it is the history that is wrong",
        )
    return Origin(_place(row.part, family), f"the first divergence, {first.site}, is in the part {row.part}")


def _was_right_without_a_history(row: SiteRow, first: SiteResult, comparison: Comparison, family: Family) -> bool:
    """Whether the site reads a cache, and was right before that had been written."""
    caches = [name for name in row.reads if family.sites.kind(name) is Kind.CACHE]
    if not caches or first.unit > 0:
        return bool(caches)
    # Within a unit: in a phase before, which wrote the cache.
    ladder = [rung.rung for rung in comparison.sites]
    before = ladder[: ladder.index(first.key.rung)] if first.key.rung in ladder else ladder
    earlier = {rung.phase for rung in before if rung.site == first.site and rung.phase != first.phase}
    return any(family.sites.of(name, phase) is not None for name in caches for phase in earlier)


def _place(part: str, family: Family) -> Birthplace:
    return part_named(part, family).place


def _blamed(cause: Cause) -> str:
    return f"blame names {cause.name}, wrong by itself at {cause.first.site}"
