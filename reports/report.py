"""The report of a parity run: one HTML file that holds all it needs, its Markdown twin, and a summary of one screen."""

from pathlib import Path
from typing import Any

from waypoint_parity.harness.compare.pictures import SSIM_VARIANT
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.reports.gallery import Gallery, write_strip
from waypoint_parity.reports.overview import effects_table, variants_table
from waypoint_parity.reports.page import rendered
from waypoint_parity.reports.pictures import Curves
from waypoint_parity.reports.run import FinishedRun, read_run
from waypoint_parity.reports.summary import reused_text
from waypoint_parity.reports.table import Table
from waypoint_parity.reports.view import CellView, view

HTML_NAME, SUMMARY_NAME = "report.html", "summary.md"
# Rows of a summary's table: those of the worst verdicts come first.
_MOST_ROWS = 20
_TELLING = ("variant", "verdict", "first divergence", "at", "mathematics", "precision", "min SSIM")


def write_report(run: Path, out: Path | None = None, cell: str | None = None) -> Path:
    """Write the report of the run in the folder `run`, and its twin beside it; returns the HTML file.

    `out`: the HTML file, else report.html in that folder. `cell`: the one that it is to be of, else all. A whole run's
    report, in its folder, has a summary beside it that fits a comment on a pull request. Raises UserError for a folder
    that holds no finished run, for a broken picture, and where nothing can be written.
    """
    page = out or run / HTML_NAME
    read = read_run(run, cell)
    context = _context(read, _views(read, page), page)
    _write(page, "report.html.j2", context)
    _write(page.with_suffix(".md"), "report.md.j2", context)
    if out is None and cell is None:
        _write(run / SUMMARY_NAME, "summary.md.j2", context)
    return page


def _views(run: FinishedRun, page: Path) -> list[CellView]:
    """The cells in the order of the summary. The focus comes first to the pictures' budget."""
    gallery, curves, focus = Gallery(page, run), Curves(), run.focus
    numbered = sorted(enumerate(run.cells), key=lambda each: each[1] is not focus)
    views = [view(number, cell, run.summary, gallery, curves, focus=cell is focus) for number, cell in numbered]
    return sorted(views, key=lambda each: each.number)


def _context(run: FinishedRun, views: list[CellView], page: Path) -> dict[str, Any]:
    focus, strip = next((each for each in views if each.cell is run.focus), None), None
    if focus is not None and focus.shown:
        strip = page.with_name(f"{page.stem}-worst.webp")
        write_strip(focus.cell, focus.shown[focus.worst].at, strip)
    variants = variants_table(run)
    return {
        "summary": run.summary,
        "views": views,
        "focus": focus,
        "strip": None if strip is None else strip.name,
        "page": page.name,
        "failing": [each for each in views if not run.summary.verdict_of(each.cell.name).passes],
        "twin": page.with_suffix(".md").name,
        "variants": variants,
        "table": _shortened(run, variants),
        "effects": effects_table(run),
        "reused": reused_text,
        "ssim_variant": SSIM_VARIANT,
        "unit_name": run.family.unit_name,
        "cache_legend": run.family.caches.legend,
        "has_pictures": any(each.pictures or each.shown for each in views),
        "has_caches": any(each.caches for each in views),
        "shown": [each.to_json() for each in views],
    }


def _shortened(run: FinishedRun, variants: Table) -> Table:
    """The rows of the worst variants, and the columns that tell most."""
    order = list(Verdict)
    rank = [order.index(run.summary.verdict_of(cell.name)) for cell in run.cells]
    rows = sorted(range(len(rank)), key=lambda row: -rank[row])[:_MOST_ROWS]
    columns = [column for column in variants.columns if column in _TELLING]
    return Table(variants.frame.loc[rows, columns], variants.formats)


def _write(path: Path, template: str, context: dict[str, Any]) -> None:
    text = rendered(template, script="report.js", style="report.css", **context)
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
