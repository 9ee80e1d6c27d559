"""The head of a report: what became of a variant in one sentence, whether it is blur, and a row for every variant."""

from typing import Any

from waypoint_parity.harness.explain.blame.result import Cause
from waypoint_parity.harness.judge.comparison import (
    INFINITE,
    MATHEMATICS,
    PRECISION,
    Comparison,
    distance_text,
    where_in,
)
from waypoint_parity.harness.run.keys import is_input, site_name
from waypoint_parity.reports.ladder import is_asked
from waypoint_parity.reports.pictures import decisions, pictures_of
from waypoint_parity.reports.run import CellReport, FinishedRun
from waypoint_parity.reports.table import Table, fixed, percent, ratio, scientific


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
        "worst error": scientific,
        "over bound": ratio,
        "mathematics": scientific,
        "precision": ratio,
        "min SSIM": fixed(6),
        "max mean |d|": fixed(4),
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


def conclusion(cell: CellReport) -> str:
    """What became of a cell and why, in one sentence."""
    comparison, blame = cell.comparison, cell.blame
    if comparison.verdict.passes:
        return f"Parity holds: {_how_close(cell)}."
    if comparison.reason is not None:
        return f"{comparison.reason}: no score is given, the two runs were not asked the same question."
    if comparison.contradictions or comparison.first is None:
        return f"{comparison.headline}."
    if blame is None or not blame.causes:
        return f"First divergence: {comparison.first}."
    cause, *others = blame.causes
    if (share := _explained(cause)) is None:
        return f"Cause: {', '.join(each.name for each in blame.causes)}; first wrong at {cause.first}."
    also = "".join(f", {other.name} {_explained(other) or 'unknown'}" for other in others)
    explained = f"{cause.name} explains {share} of the last {cell.picture_name}'s difference{also}"
    return f"{explained}; first wrong at {cause.first}."


def blur(cell: CellReport) -> str | None:
    """Whether a cell's pictures differ by blur, and by how much, in one sentence; None of a cell without pictures."""
    pictures, unit = pictures_of(cell), cell.picture_name
    if not pictures:
        return None
    told = decisions(cell)
    if not told:
        looked = cell.investigation is not None or all(picture.metrics.within_noise for picture in pictures)
        if not looked:
            return "Whether it is blur was not investigated."
        levels = max(picture.metrics.max_abs for picture in pictures)
        # What differs by few levels is too little to tell blur from anything else, and may diverge all the same.
        apart = "are equal" if not levels else f"differ by {levels:g} of 255 levels at most"
        return f"No {unit} differs enough to tell blur from anything else: they {apart}."
    others = ", ".join(f"{cause} in {len(those)}" for cause, those in told.items() if cause != "blur")
    found = [(at, at.decision) for at in pictures if at.decision is not None and at.decision.cause == "blur"]
    if not found:
        differing = sum(map(len, told.values()))
        return f"Not blur: {differing} of {len(pictures)} {unit}s differ by more than noise ({others})."
    at, worst = min(found, key=lambda each: _size(each[0].sharpness))
    wide = "" if worst.edge_width is None else f" and edges {worst.edge_width:.2f} times as wide"
    how = "" if at.sharpness is None else f"; at worst {at.sharpness:.2f} of the reference's sharpness{wide}"
    where = f" ({unit} {cell.label(at.metrics.at)})" if how else ""
    return f"Blur in {len(found)} of {len(pictures)} {unit}s{how}{where}{'; ' if others else ''}{others}."


def _how_close(cell: CellReport) -> str:
    """How near a cell that passes came to a bound: by both questions, or the site that came nearest."""
    mathematics, precision = cell.comparison.mathematics, cell.comparison.precision
    if mathematics is not None:
        known = f"known of {mathematics.observations} of {cell.comparison.compared} observations"
        said = f"exact values, {known}, are at most {distance_text(mathematics.worst)} apart"
        if precision is None or not precision.observations:
            return f"{said}, bound {mathematics.bound:.0e}"
        return f"{said}; the largest error of a site by itself is {precision.largest}, at {precision.at}"
    rungs = [rung for rung in cell.comparison.sites if rung.tolerance and rung.distance and not is_input(rung.site)]
    nearest = max(rungs, key=lambda rung: rung.excess, default=None)
    if nearest is None:
        return "all that was compared is equal bit for bit"
    where = f"{site_name(nearest.site, nearest.branch)} at {where_in(nearest.key)}"
    return f"closest to its bound is {where}, with {100 * nearest.excess:.1f} % of it"


def _explained(cause: Cause) -> str | None:
    """The share of the last picture's difference that goes away with a cause, or comes with it."""
    shares = [share.mean_abs for share in (cause.necessity, cause.sufficiency) if share is not None]
    return next((percent(share) for share in shares if share is not None), None)


def _held(comparison: Comparison) -> dict[str, bool]:
    """Whether each question holds; one that was not asked does."""
    mathematics, precision = comparison.mathematics, comparison.precision
    return {
        MATHEMATICS: mathematics is None or mathematics.same,
        PRECISION: precision is None or precision.holds,
    }


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
        "born in": None if birth is None else birth.place,
        **({} if asked else _worst_of(comparison)),
        "mathematics": None if comparison.mathematics is None else _size(comparison.mathematics.worst),
        "precision": None if precision is None or not precision.observations else _size(precision.worst),
        "coverage": f"{comparison.compared}/{comparison.expected}",
        "min SSIM": min((at.ssim for at in metrics), default=None),
        "max mean |d|": max((at.mean_abs for at in metrics), default=None),
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
