"""What a page says of one cell, section by section, ready for a template."""

from dataclasses import dataclass
from typing import Any

import msgspec

from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.contract import Contract
from waypoint_parity.reports.frames import Gallery, ShownFrame
from waypoint_parity.reports.given import read_given
from waypoint_parity.reports.ladder import ladder_svg, ladder_table
from waypoint_parity.reports.pictures import (
    Curves,
    crossing_table,
    decisions,
    pictures_table,
    trajectory_of,
    trajectory_table,
)
from waypoint_parity.reports.rings import RingMap, ring_maps
from waypoint_parity.reports.run import SCENARIO_NAME, CellReport
from waypoint_parity.reports.suspects import Suspect, blame_command, caveats, shares, suspects
from waypoint_parity.reports.table import Table, fixed, percent, scientific

# Of the cells out of focus, the ladder shows what failed and so many sites more.
_MOST_PASSING = 16


@dataclass(frozen=True)
class CellView:
    """The sections of one cell, tables and plots; `number` keeps its ids apart from another cell's."""

    number: int
    cell: CellReport
    first: Table
    pictures: Table
    curves: list[str]
    frames: list[ShownFrame]
    ladder_plot: str | None
    ladder: Table
    rings: list[RingMap]
    trajectory_plot: str | None
    trajectory: Table
    crossing: Table
    contract: Table
    controls: Table
    causes: Table
    suspects: list[Suspect]
    caveats: list[str]
    blame_command: str
    differs_by: dict[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        """What the page's script shows of the frames."""
        says: dict[int, Any] = {entry["frame"]: entry for entry in self.pictures.frame.to_dict("records")}
        differing = {frame for frames in self.differs_by.values() for frame in frames}
        return {
            "name": self.cell.name,
            "worst": min(range(len(self.frames)), key=lambda at: _ssim(says.get(self.frames[at].frame)), default=0),
            "frames": [
                {
                    "frame": shown.frame,
                    "gain": shown.gain,
                    "links": shown.links,
                    "pictures": shown.pictures,
                    "says": _says(says.get(shown.frame, {})),
                    "differs": shown.frame in differing,
                }
                for shown in self.frames
            ],
        }


def view(number: int, cell: CellReport, summary: Summary, gallery: Gallery, curves: Curves, *, focus: bool) -> CellView:
    """Everything of a cell. The cell in focus has the whole ladder, and its plots: of every cell they take too long."""
    prefix, investigation = f"c{number}", cell.investigation
    contract = Contract(cell, read_given(cell.folder / SCENARIO_NAME))
    return CellView(
        number=number,
        cell=cell,
        first=first_divergence(cell),
        pictures=pictures_table(cell),
        curves=curves.draw(cell, prefix),
        frames=gallery.frames(cell),
        ladder_plot=ladder_svg(cell, f"{prefix}-ladder") if focus else None,
        ladder=ladder_table(cell, None if focus else _MOST_PASSING),
        rings=ring_maps(cell),
        trajectory_plot=trajectory_of(investigation, f"{prefix}-trajectory") if focus and investigation else None,
        trajectory=Table.of([]) if investigation is None else trajectory_table(investigation),
        crossing=Table.of([]) if investigation is None else crossing_table(investigation),
        contract=contract.table(),
        controls=contract.controls(),
        causes=_causes(cell),
        suspects=suspects(cell),
        caveats=[] if cell.blame is None else caveats(cell.blame),
        blame_command=blame_command(cell, summary),
        differs_by=decisions(cell),
    )


def first_divergence(cell: CellReport) -> Table:
    """The first divergence as comparison.json has it, under the names that it has there."""
    first = cell.comparison.first
    if first is None:
        return Table.of([])
    names = ("frame", "phase", "step", "site", "rel_l2", "tolerance", "cosine", "norm_ratio", "max_abs", "order")
    values = msgspec.structs.asdict(first)
    formats = dict.fromkeys(("rel_l2", "tolerance", "max_abs"), scientific)
    return Table.of(
        [{name: values[name] for name in names} | ({"note": first.note} if first.note else {})],
        formats | {"cosine": fixed(6), "norm_ratio": fixed(6)},
    )


def _causes(cell: CellReport) -> Table:
    """The causes of a blame: of each, the share of the picture's error that exchanging it takes away, and makes."""
    if cell.blame is None:
        return Table.of([])
    rows: list[dict[str, Any]] = [
        {
            "cause": f"{cause.name} ({cause.family})",
            "first": cause.first.site,
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


def _ssim(row: dict[str, Any] | None) -> float:
    return 1.0 if row is None else float(row["SSIM"])


def _says(row: dict[str, Any]) -> str:
    """The measures of one frame in a line."""
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
    return ", ".join([*parts, f"differs by {row['differs by']}"])
