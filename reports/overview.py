"""The head of a report: the verdict, the cause, and a row for every variant."""

from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.judge.comparison import WorstAtSite
from waypoint_parity.harness.run.keys import is_input, site_name
from waypoint_parity.reports.ladder import over_bound
from waypoint_parity.reports.pictures import decisions, pictures_of
from waypoint_parity.reports.run import CellReport, FinishedRun
from waypoint_parity.reports.table import Table, fixed, scientific


@dataclass(frozen=True)
class Nearest:
    """The site of a run that came closest to its bound, or went furthest beyond it."""

    cell: CellReport
    rung: WorstAtSite

    @property
    def share(self) -> float:
        """The error over the bound."""
        return over_bound(self.rung)


def variants_table(run: FinishedRun) -> Table:
    """Every variant that ran: its verdict, where it diverged first, its worst site and its worst picture."""
    rows = [_row(cell) for cell in run.cells]
    told = {name for row in rows for name, value in row.items() if value is not None}
    rows = [{name: value for name, value in row.items() if name in told} for row in rows]
    marks = {
        (number, name): "bad"
        for number, cell in enumerate(run.cells)
        if not cell.verdict.passes
        for name in ("verdict", "first divergence")
    }
    formats = {
        "error there": scientific,
        "worst error": scientific,
        "over bound": "{:.2g}".format,
        "min SSIM": fixed(6),
        "max mean |d|": fixed(4),
        "min PSNR dB": fixed(1),
        "sharpness": fixed(4),
        "seconds": fixed(1),
    }
    return Table.of(rows, formats, marks)


def effects_table(run: FinishedRun) -> Table:
    """How many cells of every level of every factor fail; empty without effects, and where no factor has two levels."""
    if run.summary.effects is None:
        return Table.of([])
    rows = [
        {
            "factor": effect.factor,
            "level": effect.level,
            "failing": f"{effect.failing}/{effect.cells}",
            "median excess": effect.excess,
        }
        for effect in run.summary.effects.levels
        if len(run.summary.effects.factors.get(effect.factor, [])) > 1
    ]
    return Table.of(rows, {"median excess": "{:.3g}".format})


def nearest(run: FinishedRun) -> Nearest | None:
    """How close the run came to a bound; None where no site has an error and a bound."""
    rungs = [
        Nearest(cell, rung)
        for cell in run.cells
        for rung in cell.comparison.sites
        if rung.tolerance and not is_input(rung.site)
    ]
    return max(rungs, key=lambda near: near.share, default=None)


def _row(cell: CellReport) -> dict[str, Any]:
    comparison, pictures = cell.comparison, pictures_of(cell)
    first, worst = comparison.first, comparison.worst
    metrics = [picture.metrics for picture in pictures]
    sharp = [picture.sharpness for picture in pictures if picture.sharpness is not None]
    birth = None if cell.investigation is None else cell.investigation.birth
    row: dict[str, Any] = {
        "variant": cell.name,
        "verdict": str(cell.verdict),
        "first divergence": comparison.reason or (None if first is None else site_name(first.site, first.branch)),
        "at": None if first is None else f"u{first.unit} {first.phase}{first.step}",
        "error there": None if first is None else first.rel_l2,
        "born in": None if birth is None else birth.place,
        "worst site": None if worst is None else site_name(worst.site, worst.branch),
        "worst error": None if worst is None else worst.rel_l2,
        "over bound": max(map(over_bound, comparison.sites), default=None),
        "coverage": f"{comparison.compared}/{comparison.expected}",
        "min SSIM": min((at.ssim for at in metrics), default=None),
        "max mean |d|": max((at.mean_abs for at in metrics), default=None),
        "min PSNR dB": min((at.psnr for at in metrics if at.psnr is not None), default=None),
        "sharpness": min(sharp, key=lambda ratio: -abs(ratio - 1), default=None),
        "pictures differ by": _differ_by(cell),
        "seconds": cell.ran.seconds,
    }
    if comparison.growth:
        row["horizon"] = "none" if comparison.horizon is None else f"{cell.family.unit_name} {comparison.horizon}"
    if cell.forced is not None:
        row["teacher-forced"] = str(cell.forced.verdict)
    return row


def _differ_by(cell: CellReport) -> str | None:
    """What tells the two sides' pictures apart; None where there are none."""
    if not pictures_of(cell):
        return None
    causes = ", ".join(f"{cause} in {len(pictures)}" for cause, pictures in decisions(cell).items())
    return causes or "no more than noise"
