"""The report of a parity run: one HTML file that holds all it needs, and its Markdown twin."""

from pathlib import Path
from typing import Any

from waypoint_parity.harness.compare.pictures import SSIM_VARIANT
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.reports.gallery import Gallery
from waypoint_parity.reports.overview import answers, effects_table, nearest, variants_table
from waypoint_parity.reports.page import rendered
from waypoint_parity.reports.pictures import Curves
from waypoint_parity.reports.run import FinishedRun, read_run
from waypoint_parity.reports.summary import reused_text
from waypoint_parity.reports.view import CellView, view

HTML_NAME = "report.html"


def write_report(run: Path, out: Path | None = None, cell: str | None = None) -> Path:
    """Write the report of the run in the folder `run`, and its twin beside it; returns the HTML file.

    `out`: the HTML file, else report.html in that folder. `cell`: the one that it is to be of, else all. Raises
    UserError for a folder that holds no finished run, for a broken picture, and where nothing can be written.
    """
    page = out or run / HTML_NAME
    read = read_run(run, cell)
    views = _views(read, page)
    _write(page, "report.html.j2", _context(read, views))
    _write(page.with_suffix(".md"), "report.md.j2", _context(read, views))
    return page


def _views(run: FinishedRun, page: Path) -> list[CellView]:
    """The cells in the order of the summary. The focus comes first to the pictures' budget."""
    gallery, curves, focus = Gallery(page, run), Curves(), run.focus
    numbered = sorted(enumerate(run.cells), key=lambda each: each[1] is not focus)
    views = [view(number, cell, run.summary, gallery, curves, focus=cell is focus) for number, cell in numbered]
    return sorted(views, key=lambda each: each.number)


def _context(run: FinishedRun, views: list[CellView]) -> dict[str, Any]:
    return {
        "run": run,
        "summary": run.summary,
        "views": views,
        "focus": next((each for each in views if each.cell is run.focus), None),
        "variants": variants_table(run),
        "effects": effects_table(run),
        "answers": answers(run),
        "nearest": nearest(run),
        "lines": _comparison_text,
        "reused": reused_text,
        "ssim_variant": SSIM_VARIANT,
        "unit_name": run.family.unit_name,
        "cache_legend": run.family.caches.legend,
        "has_pictures": any(each.pictures or each.shown for each in views),
        "has_caches": any(each.caches for each in views),
        "shown": [each.to_json() for each in views],
    }


def _comparison_text(comparison: Comparison) -> str:
    """A comparison in a few lines, none of which ends a block of Markdown, whatever the implementations are called."""
    return "\n".join(
        line.replace("\n", " ").replace("```", "") for line in comparison_lines(comparison, unanswered=False)
    )


def _write(path: Path, template: str, context: dict[str, Any]) -> None:
    text = rendered(template, script="report.js", style="report.css", **context)
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
