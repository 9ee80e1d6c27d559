"""The layer ladder: the error of every site in the order of execution, over what was allowed there."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from waypoint_parity.harness.explain.blame.result import SiteErrors
from waypoint_parity.harness.judge.comparison import WorstAtSite
from waypoint_parity.harness.run.keys import Rung, site_name
from waypoint_parity.reports.plots import LadderPoint, ladder_plot
from waypoint_parity.reports.run import CellReport
from waypoint_parity.reports.table import Table, scientific

_ERRORS = ("error", "bound", "local", "reference to fp32", "candidate to fp32")
_FORMATS: dict[str, Callable[[Any], str]] = {"over bound": "{:.2g}".format} | dict.fromkeys(_ERRORS, scientific)


def ladder_table(cell: CellReport, most_passing: int | None = None) -> Table:
    """Every rung; of the passing ones only the `most_passing` closest to their bound, where given.

    `local` is what the site does wrong by itself, where a blame measured it; the rest of its error is inherited.
    """
    kept = _closest(cell.comparison.sites, most_passing)
    local, first, names = _local(cell), first_rung(cell), _step_names(cell.comparison.sites)
    rows, marks = list[dict[str, Any]](), dict[tuple[int, str], str]()
    for order, rung in enumerate(cell.comparison.sites):
        if order not in kept:
            continue
        if rung.failed:
            marks[len(rows), "error"] = "bad"
        if order == first:
            marks[len(rows), "site"] = "first"
        step = {"order": order, "step": names[rung.phase, rung.step]}
        rows.append(step | _row(rung, local.get(rung.rung), f"at {cell.family.unit_name}"))
    if not local:
        rows = [{name: value for name, value in row.items() if name not in ("local", "is")} for row in rows]
    return Table.of([_without_truth(row, cell) for row in rows], _FORMATS, marks)


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


def over_bound(rung: WorstAtSite) -> float:
    """The error of a rung over what was allowed there: infinite where nothing was."""
    if rung.distance == 0:
        return 0.0
    return rung.distance / rung.tolerance if rung.tolerance else float("inf")


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
    near = sorted(passing, key=lambda order: -over_bound(rungs[order]))
    return failing | set(near if most_passing is None else near[:most_passing])


def _row(rung: WorstAtSite, alone: SiteErrors | None, at_unit: str) -> dict[str, Any]:
    wrong_alone = alone is not None and (alone.local is None or alone.local > alone.bound)
    inherited = "inherited" if rung.failed else None
    return {
        "site": site_name(rung.site, rung.branch),
        "error": rung.rel_l2,
        "bound": rung.tolerance,
        "over bound": over_bound(rung),
        at_unit: rung.unit,
        "failed": f"{rung.failed}/{rung.observations}",
        "local": None if alone is None else alone.local,
        "is": "by itself" if wrong_alone else inherited,
        "reference to fp32": rung.reference_to_truth,
        "candidate to fp32": rung.candidate_to_truth,
    }


def _without_truth(row: dict[str, Any], cell: CellReport) -> dict[str, Any]:
    if any(rung.reference_to_truth is not None for rung in cell.comparison.sites):
        return row
    return {name: value for name, value in row.items() if not name.endswith("to fp32")}
