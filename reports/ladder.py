"""The layer ladder: the error of every site in the order of execution, over what was allowed there."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from waypoint_parity.harness.explain.blame.result import SiteErrors
from waypoint_parity.harness.judge.comparison import WorstAtSite
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.run.keys import Rung, site_name
from waypoint_parity.reports.plots import LadderPoint, ladder_plot
from waypoint_parity.reports.run import CellReport
from waypoint_parity.reports.table import Format, Table, ratio, scientific

_ERRORS = ("error", "bound", "exact distance", "local", "reference to fp32", "candidate to fp32")
_RATIOS = ("over bound", "by itself, over bound")
_FORMATS: dict[str, Format] = {**dict.fromkeys(_RATIOS, ratio), **dict.fromkeys(_ERRORS, scientific)}


def ladder_table(cell: CellReport, most_passing: int | None = None) -> Table:
    """Every rung; of the passing ones only the `most_passing` closest to their bound, where given.

    Where the two questions were asked, the distance of exact values and the error by itself over its bound stand in
    place of the error over its bound. `local` is the error by itself as a blame measured it; the rest is inherited.
    """
    kept = _closest(cell.comparison.sites, most_passing)
    local, first, names = _local(cell), first_rung(cell), _step_names(cell.comparison.sites)
    rows, marks = list[dict[str, Any]](), dict[tuple[int, str], str]()
    for order, rung in enumerate(cell.comparison.sites):
        if order not in kept:
            continue
        if rung.failed:
            marks |= {(len(rows), name): "bad" for name in _wrong(rung)}
        if order == first:
            marks[len(rows), "site"] = "first"
        at: dict[str, Any] = {
            "site": site_name(rung.site, rung.branch),
            "step": names[rung.phase, rung.step],
            "order": order,
        }
        rows.append(at | _row(rung, local.get(rung.rung), f"at {cell.family.unit_name}"))
    untold = set[str]() if local else {"local", "is"}
    untold |= {"over bound"} if is_asked(cell) else {"exact distance", "by itself, over bound"}
    if all(rung.reference_to_truth is None for rung in cell.comparison.sites):
        untold |= {"reference to fp32", "candidate to fp32"}
    rows = [{name: value for name, value in row.items() if name not in untold} for row in rows]
    return Table.of(rows, _FORMATS, marks)


def ladder_svg(cell: CellReport, prefix: str) -> str | None:
    """The ladder as a plot; None where nothing was compared."""
    if not cell.comparison.sites:
        return None
    local, names = _local(cell), _step_names(cell.comparison.sites)
    points = [
        LadderPoint(
            section=names[rung.phase, rung.step],
            error=rung.rel_l2,
            bound=rung.tolerance,
            local=own.local if (own := local.get(rung.rung)) is not None else None,
            failed=rung.failed > 0,
        )
        for rung in cell.comparison.sites
    ]
    return ladder_plot(points, first_rung(cell), prefix)


def first_rung(cell: CellReport) -> int | None:
    """The place on the ladder of the first divergence; None where nothing diverged."""
    first = cell.comparison.first
    if first is None:
        return None
    places = [rung.rung for rung in cell.comparison.sites]
    return places.index(first.key.rung) if first.key.rung in places else None


def is_asked(cell: CellReport) -> bool:
    """Whether a cell was asked about its mathematics or its precision, besides the distance of values."""
    return cell.comparison.mathematics is not None or cell.comparison.precision is not None


def _wrong(rung: WorstAtSite) -> list[str]:
    """The columns that say why a rung that failed did."""
    exact = rung.exact is not None and rung.exact > SAME_MATHEMATICS
    own = rung.local is not None and rung.local > 1
    return [*(["exact distance"] if exact else []), *(["by itself, over bound"] if own else [])] or ["error"]


def _step_names(rungs: Iterable[WorstAtSite]) -> dict[tuple[str, int], str]:
    """What every step is called: by its phase, and by its number where the phase has several."""
    steps: defaultdict[str, set[int]] = defaultdict(set)
    for rung in rungs:
        steps[rung.phase].add(rung.step)
    return {
        (phase, step): f"{phase} {step}" if len(several) > 1 else phase
        for phase, several in steps.items()
        for step in several
    }


def _local(cell: CellReport) -> dict[Rung, SiteErrors]:
    errors = [] if cell.blame is None else cell.blame.sites
    return {each.rung: each for each in errors}


def _closest(rungs: list[WorstAtSite], most_passing: int | None) -> set[int]:
    passing = [order for order, rung in enumerate(rungs) if not rung.failed]
    failing = {order for order, rung in enumerate(rungs) if rung.failed}
    near = sorted(passing, key=lambda order: -rungs[order].excess)
    return failing | set(near if most_passing is None else near[:most_passing])


def _row(rung: WorstAtSite, alone: SiteErrors | None, at_unit: str) -> dict[str, Any]:
    wrong_alone = alone is not None and (alone.local is None or alone.local > alone.bound)
    inherited = "inherited" if rung.failed else None
    return {
        "error": rung.rel_l2,
        "bound": rung.tolerance,
        "over bound": rung.excess,
        at_unit: rung.unit,
        "exact distance": rung.exact,
        "by itself, over bound": rung.local,
        "failed": f"{rung.failed}/{rung.observations}",
        "local": None if alone is None else alone.local,
        "is": "by itself" if wrong_alone else inherited,
        "reference to fp32": rung.reference_to_truth,
        "candidate to fp32": rung.candidate_to_truth,
    }
