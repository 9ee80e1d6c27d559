"""What a page says of one cell, section by section, ready for a template."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from waypoint_parity.harness.judge.comparison import MATHEMATICS, PRECISION, TEACHER_FORCED
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.run.keys import site_name
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.caches import CacheMap, cache_maps
from waypoint_parity.reports.contract import Contract
from waypoint_parity.reports.gallery import Gallery, ShownPicture
from waypoint_parity.reports.inputs import read_given
from waypoint_parity.reports.ladder import is_asked, ladder_svg, ladder_table
from waypoint_parity.reports.overview import blur, conclusion
from waypoint_parity.reports.pictures import (
    Curves,
    crossing_table,
    decisions,
    pictures_table,
    trajectory_plots,
    trajectory_table,
)
from waypoint_parity.reports.run import SCENARIO_NAME, CellReport
from waypoint_parity.reports.suspects import Suspect, caveats, shares, suspects
from waypoint_parity.reports.table import Table, fixed, percent, ratio, scientific

# Lines of a comparison that the page says elsewhere.
_SAID = ("contradiction", "first divergence", "but", "first wrong slot", "pictures")
# Of the cells out of focus, the ladder shows what failed and so many sites more.
_MOST_PASSING = 16


@dataclass(frozen=True)
class CellView:
    """The sections of one cell, tables and plots; `number` keeps its ids apart from another cell's."""

    number: int
    cell: CellReport
    # What became of it and why, and whether it is blur, in a sentence each; and commands by what they do.
    conclusion: str
    blur: str | None
    commands: dict[str, str]
    # What else the comparison says, as lines.
    says: str
    first: Table
    unanswered: Table
    pictures: Table
    curves: list[str]
    shown: list[ShownPicture]
    ladder_plot: str | None
    ladder: Table
    # Whether the ladder shows exact distances and errors by themselves.
    asked: bool
    caches: list[CacheMap]
    trajectory_plots: list[str]
    trajectory: Table
    crossing: Table
    contract: Table
    given: Table
    causes: Table
    suspects: list[Suspect]
    caveats: list[str]
    growth: Table

    @property
    def worst(self) -> int:
        """The place of the worst picture among those that are shown."""
        ssim = {metrics.at: metrics.ssim for metrics in self.cell.comparison.pictures}
        return min(range(len(self.shown)), key=lambda place: ssim.get(self.shown[place].at, 1.0), default=0)

    def to_json(self) -> dict[str, Any]:
        """What the page's script shows of the pictures."""
        name, labels = self.cell.picture_name, [self.cell.label(shown.at) for shown in self.shown]
        says: dict[int | str, Any] = {entry[name]: entry for entry in self.pictures.frame.to_dict("records")}
        differing = {label for those in decisions(self.cell).values() for label in those}
        return {
            "name": self.cell.name,
            "worst": self.worst,
            "shown": [
                {
                    "label": str(label),
                    "name": f"{name} {label}",
                    "gain": shown.gain,
                    "aspect": shown.aspect,
                    "links": shown.links,
                    "pictures": shown.pictures,
                    "says": picture_says(says.get(label, {})),
                    "differs": label in differing,
                }
                for label, shown in zip(labels, self.shown, strict=True)
            ],
        }


def _commands(cell: CellReport) -> dict[str, str]:
    """How to go on, as a shell reads it: run the cell again, and search its causes where it diverges."""
    if not cell.ran.command:
        return {}
    found = {"Reproduce": ["waypoint-parity", *cell.ran.command]}
    if cell.comparison.first is not None and cell.comparison.reason is None:
        run = cell.folder.parents[len(Path(cell.ran.folder).parts) - 1]
        search = ["waypoint-parity", "blame", "--cell", cell.name, "--run", str(run)]
        found["Search the cause" if cell.blame is None else "Search further"] = search
    return {name: shlex.join(words) for name, words in found.items()}


def view(number: int, cell: CellReport, summary: Summary, gallery: Gallery, curves: Curves, *, focus: bool) -> CellView:
    """Everything of a cell. The cell in focus has the whole ladder, and its plots: of every cell they take too long."""
    prefix = f"c{number}"
    contract = Contract(cell, read_given(cell.folder / SCENARIO_NAME, cell.family))
    return CellView(
        number=number,
        cell=cell,
        conclusion=conclusion(cell),
        blur=blur(cell),
        commands=_commands(cell),
        says=_says(cell),
        first=first_divergence(cell),
        unanswered=unanswered(cell),
        pictures=pictures_table(cell),
        curves=curves.draw(cell, prefix),
        shown=gallery.shown(cell),
        ladder_plot=ladder_svg(cell, f"{prefix}-ladder") if focus else None,
        ladder=ladder_table(cell, None if focus else _MOST_PASSING),
        asked=is_asked(cell),
        caches=cache_maps(cell),
        trajectory_plots=trajectory_plots(cell, f"{prefix}-trajectory") if focus else [],
        trajectory=trajectory_table(cell),
        crossing=crossing_table(cell),
        contract=contract.table(),
        given=contract.by_unit(),
        causes=_causes(cell),
        suspects=suspects(cell),
        caveats=[] if cell.blame is None else caveats(cell.blame),
        growth=growth_table(cell),
    )


def first_divergence(cell: CellReport) -> Table:
    """The first divergence as comparison.json has it, under the names that it has there."""
    first = cell.comparison.first
    if first is None:
        return Table.of([])
    names = ["unit", "phase", "step", "site", *(["branch"] if first.branch else [])]
    names += [name for name in ("exact", "local") if getattr(first, name) is not None]
    names += ["rel_l2", "tolerance", "cosine", "norm_ratio", "max_abs", "order"]
    values = msgspec.structs.asdict(first)
    formats = dict.fromkeys(("exact", "rel_l2", "tolerance", "max_abs"), scientific) | {"local": ratio}
    return Table.of(
        [{name: values[name] for name in names} | ({"note": first.note} if first.note else {})],
        formats | {"cosine": fixed(6), "norm_ratio": fixed(6)},
    )


def unanswered(cell: CellReport) -> Table:
    """What could not be followed or judged of the two questions, and the mean gains beyond rounding; a row for each."""
    mathematics, precision = cell.comparison.mathematics, cell.comparison.precision
    unfollowed = {} if mathematics is None else mathematics.unfollowed
    rows = [
        {"question": "mathematics", "what": "not followed", "why": f"{side}: {reason}"}
        for side, reasons in unfollowed.items()
        for reason in reasons
    ]
    if precision is not None:
        rows += [{"question": "precision", "what": "mean gain", "why": gain} for gain in precision.gains]
        rows += [{"question": "precision", "what": "not judged", "why": reason} for reason in precision.unjudged]
    return Table.of(
        rows, marks={(number, "why"): "bad" for number, row in enumerate(rows) if row["what"] == "mean gain"}
    )


def _causes(cell: CellReport) -> Table:
    """The causes of a blame: of each, the share of the picture's error that exchanging it takes away, and makes."""
    if cell.blame is None:
        return Table.of([])
    rows: list[dict[str, Any]] = [
        {
            "cause": f"{cause.name} ({cause.group})",
            "first": site_name(cause.first.site, cause.first.branch),
            "local error": cause.first.rel_l2,
            "bound": cause.first.bound,
            "wrong by itself": f"{cause.failed}/{cause.observed}",
            "exchanged": kind,
        }
        | shares(share)
        for cause in cell.blame.causes
        for kind, share in (("necessary", cause.necessity), ("sufficient", cause.sufficiency))
    ]
    return Table.of(rows, dict.fromkeys(shares(None), percent) | {"local error": scientific, "bound": scientific})


def growth_table(cell: CellReport) -> Table:
    """The error of every unit's final latent, of either rollout.

    Where one does not pass, also the most that noise alone grows to by then: it says nothing of one that does.
    """
    comparison, forced = cell.comparison, cell.forced
    fed = {} if forced is None else {at.unit: at.rel_l2 for at in forced.growth}
    failing = not comparison or (forced is not None and not forced)
    rows = [
        {cell.family.unit_name: at.unit, "latent error": at.rel_l2}
        | ({"of noise, at most": at.tolerance} if failing else {})
        | ({} if forced is None else {TEACHER_FORCED: fed.get(at.unit)})
        for at in comparison.growth
    ]
    return Table.of(rows, dict.fromkeys(("latent error", "of noise, at most", TEACHER_FORCED), scientific))


def _says(cell: CellReport) -> str:
    """What a comparison says that no sentence or table of the page does; none of it ends a block of Markdown."""
    if cell.comparison.reason is not None:
        return ""
    elsewhere = _SAID + ((MATHEMATICS, PRECISION) if cell.comparison else ())
    lines = comparison_lines(cell.comparison, unanswered=False)[1:]
    said = [line for line in lines if line.strip().partition(":")[0] not in elsewhere]
    forced = [] if cell.forced is None else comparison_lines(cell.forced, unanswered=False)
    return "\n".join(line.replace("\n", " ").replace("```", "") for line in said + forced)


def picture_says(row: dict[str, Any]) -> str:
    """The measures of one picture in a line."""
    if not row:
        return ""
    psnr = row["PSNR dB"]
    parts = [
        f"SSIM {row['SSIM']:.6f}",
        f"mean |d| {row['mean |d|']:.4f}",
        "PSNR: equal" if psnr is None else f"PSNR {psnr:.1f} dB",
    ]
    if row["sharpness"] is not None:
        parts.append(f"sharpness {row['sharpness']:.4f}")
    if row["differs by"] is not None:
        parts.append(f"differs by {row['differs by']}")
    return ", ".join(parts)
