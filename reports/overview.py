"""The head of a report: the verdict, the cause, and a row for every variant."""

from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.judge.comparison import (
    INFINITE,
    MATHEMATICS,
    PRECISION,
    Comparison,
    WorstAtSite,
    distance_text,
)
from waypoint_parity.harness.run.keys import is_input, site_name
from waypoint_parity.reports.ladder import is_asked
from waypoint_parity.reports.pictures import decisions, pictures_of
from waypoint_parity.reports.run import CellReport, FinishedRun
from waypoint_parity.reports.table import Table, fixed, ratio, scientific


@dataclass(frozen=True)
class Nearest:
    """The site of a run that came closest to its bound, or went furthest beyond it."""

    cell: CellReport
    rung: WorstAtSite

    @property
    def share(self) -> float:
        """The error over the bound."""
        return self.rung.excess


def variants_table(run: FinishedRun) -> Table:
    """Every variant that ran: its verdict, where it diverged first, the answers to both questions, its worst picture.

    The answers are the largest distance of exact values, and the largest error by itself over its bound. Its worst site
    stands there where nothing was asked.
    """
    asked = any(map(is_asked, run.cells))
    rows = [_row(cell, run.summary.stated_of(cell.name), asked=asked) for cell in run.cells]
    told = {name for row in rows for name, value in row.items() if value is not None}
    rows = [{name: value for name, value in row.items() if name in told} for row in rows]
    marks = {
        (number, name): "bad"
        for number, cell in enumerate(run.cells)
        if not cell.verdict.passes
        for name in ("verdict", "first divergence")
    }
    marks |= {
        (number, question): "bad"
        for number, cell in enumerate(run.cells)
        for question, holds in _held(cell.comparison).items()
        if not holds
    }
    formats = {
        "error there": scientific,
        "worst error": scientific,
        "over bound": ratio,
        "mathematics": scientific,
        "precision": ratio,
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


def answers(run: FinishedRun) -> dict[str, str]:
    """What the run says to each of the two questions, in words; without those that were asked of no variant."""
    compared = [(cell.name, cell.comparison) for cell in run.cells]
    mathematics = [(name, of.mathematics) for name, of in compared if of.mathematics is not None]
    precision = [(name, of.precision) for name, of in compared if of.precision and of.precision.observations]
    said = {}
    if mathematics:
        _, worst = max(mathematics, key=lambda each: _size(each[1].worst))
        failing = sum(not of.same for _, of in mathematics)
        verdict = _share("The same", "Not the same", failing, len(mathematics))
        apart = distance_text(worst.worst)
        known = sum(of.observations for _, of in mathematics)
        all_of = sum(of.compared for _, of in compared if of.mathematics is not None)
        exact = f"Exact values, known of {known} of {all_of} observations, are at most {apart} apart"
        said["Mathematics"] = f"{verdict}. {exact}, bound {worst.bound:.0e}."
    if precision:
        name, largest = max(precision, key=lambda each: _size(each[1].worst))
        failing = sum(not of.holds for _, of in precision)
        verdict = _share("Within what rounding explains", "Beyond what rounding explains", failing, len(precision))
        where = f"{largest.at} of {name}" if len(precision) > 1 else largest.at
        said["Precision"] = f"{verdict}. The largest error of a site by itself is {largest.largest}, at {where}."
        if gains := sum(len(of.gains) for _, of in precision):
            said["Precision"] += f" Mean gains beyond their bounds: {gains}."
    return said


def _held(comparison: Comparison) -> dict[str, bool]:
    """Whether each question holds; one that was not asked does."""
    mathematics, precision = comparison.mathematics, comparison.precision
    return {
        MATHEMATICS: mathematics is None or mathematics.same,
        PRECISION: precision is None or precision.holds,
    }


def _share(holds: str, fails: str, failing: int, asked: int) -> str:
    """Of the variants that were asked, how many fail."""
    if not failing:
        return holds if asked == 1 else f"{holds} in every variant"
    return fails if asked == 1 else f"{fails} in {failing} of {asked} variants"


def _size(worst: float | None) -> float:
    """A worst error as a number that can be ordered and shown: None is an infinite one."""
    return INFINITE if worst is None else worst


def _worst_of(comparison: Comparison) -> dict[str, Any]:
    worst = comparison.worst
    return {
        "worst site": None if worst is None else site_name(worst.site, worst.branch),
        "worst error": None if worst is None else worst.rel_l2,
        "over bound": max((rung.excess for rung in comparison.sites), default=None),
    }


def _row(cell: CellReport, verdict: str, *, asked: bool) -> dict[str, Any]:
    comparison, pictures = cell.comparison, pictures_of(cell)
    first, precision = comparison.first, comparison.precision
    metrics = [picture.metrics for picture in pictures]
    sharp = [picture.sharpness for picture in pictures if picture.sharpness is not None]
    birth = None if cell.investigation is None else cell.investigation.birth
    row: dict[str, Any] = {
        "variant": cell.name,
        "verdict": verdict,
        "first divergence": comparison.reason or (None if first is None else site_name(first.site, first.branch)),
        "at": None if first is None else f"u{first.unit} {first.phase}{first.step}",
        "error there": None if first is None else first.rel_l2,
        "born in": None if birth is None else birth.place,
        **({} if asked else _worst_of(comparison)),
        "mathematics": None if comparison.mathematics is None else _size(comparison.mathematics.worst),
        "precision": None if precision is None or not precision.observations else _size(precision.worst),
        "coverage": f"{comparison.compared}/{comparison.expected}",
        "min SSIM": min((at.ssim for at in metrics), default=None),
        "max mean |d|": max((at.mean_abs for at in metrics), default=None),
        "min PSNR dB": min((at.psnr for at in metrics if at.psnr is not None), default=None),
        "sharpness": min(sharp, key=lambda ratio: -abs(ratio - 1), default=None),
        "pictures differ by": _differ_by(cell),
        "seconds": cell.ran.seconds,
        "run": "reused" if cell.ran.reused else None,
    }
    if comparison.growth and not comparison:
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
