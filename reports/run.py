"""A run's folder, read into values: what a report is made of. Nothing is computed here that belongs to analysis."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.result import BLAME_NAME, Blame, read_blame
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, Investigation, read_investigation
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.record.records import Manifest, PictureAt, kept_pictures, picture_path, read_manifest
from waypoint_parity.harness.run.family import Family, family_named
from waypoint_parity.harness.sweep.store import CELL_NAME, read_cell
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, CellRun, Summary, read_summary

SIDES = ("reference", "candidate")
SCENARIO_NAME = "scenario.safetensors"
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class CellReport:
    """One cell that ran. What its folder lacks is None, and `absent` says what and why."""

    name: str
    family: Family
    folder: Path
    ran: CellRun
    verdict: Verdict
    comparison: Comparison
    forced: Comparison | None
    # What its result depends on; empty of one that no sweep made.
    identity: dict[str, str]
    # By side; a side without a readable dump is left out.
    manifests: dict[str, Manifest]
    investigation: Investigation | None
    blame: Blame | None
    absent: list[str]

    @property
    def pictures(self) -> list[PictureAt]:
        """The pictures that both sides keep as PNG."""
        kept = [set(kept_pictures(self.folder / side)) for side in SIDES]
        return sorted(kept[0] & kept[1])

    def picture(self, side: str, at: PictureAt) -> Path:
        """Where a side keeps a decoded picture."""
        return picture_path(self.folder / side, at)

    @cached_property
    def picture_name(self) -> str:
        """What a picture is called: as its unit, where no unit has several."""
        shown = [metrics.at for metrics in self.comparison.pictures] or self.pictures
        return self.family.unit_name if all(at == PictureAt(at.unit) for at in shown) else "picture"

    def label(self, at: PictureAt) -> int | str:
        """The number of a picture; of its unit, where no unit has several."""
        return str(at) if self.picture_name == "picture" else at.unit


@dataclass(frozen=True)
class FinishedRun:
    """A finished parity run: its summary, and its cells in the order of the summary."""

    folder: Path
    summary: Summary
    cells: list[CellReport]

    @property
    def family(self) -> Family:
        """The family of the model that all cells ran."""
        return family_named(self.summary.family)

    @property
    def focus(self) -> CellReport | None:
        """The cell to look at first; None where none ran.

        Of the diverging ones, or else those of the worst verdict: one with a blame, then the one with most failures,
        then the largest error.
        """
        diverged = [cell for cell in self.cells if cell.verdict is Verdict.DIVERGED]
        worst = diverged or [cell for cell in self.cells if cell.verdict is self.summary.verdict]
        return max(worst, key=_severity, default=None)


def read_run(folder: Path, cell: str | None = None) -> FinishedRun:
    """The run in a folder, or one `cell` of it. Raises UserError where there is no summary, or a broken one.

    A cell without an investigation, a blame or a dump is read without; a broken file of a cell counts as absent.
    """
    summary = read_summary(folder / SUMMARY_NAME)
    if cell is not None:
        summary = summary.only(cell)
    cells = [_read_cell(folder, summary, name) for name in summary.variants if name in summary.cells]
    return FinishedRun(folder, summary, cells)


def _read_cell(folder: Path, summary: Summary, name: str) -> CellReport:
    ran, blame = summary.cells[name], f"blame/{BLAME_NAME}"
    at, absent = folder / ran.folder, list[str]()

    def read(name: str, reader: Callable[[Path], _Read]) -> _Read | None:
        if not (at / name).exists():
            absent.append(f"{name} is not there")
            return None
        try:
            return reader(at / name)
        except UserError as error:
            absent.append(f"{error.what}: {error.found}".replace(f"{at}/", ""))
            return None

    manifests = {side: read(side, read_manifest) for side in SIDES}
    made = read(CELL_NAME, lambda path: read_cell(path.parent)) if (at / CELL_NAME).exists() else None
    return CellReport(
        name=name,
        family=family_named(summary.family),
        folder=at,
        ran=ran,
        verdict=summary.verdict_of(name),
        comparison=summary.variants[name],
        forced=summary.teacher_forced.get(name),
        identity={} if made is None else made.identity,
        manifests={side: manifest for side, manifest in manifests.items() if manifest is not None},
        investigation=read(INVESTIGATION_NAME, read_investigation),
        # Only one cell of a run is searched for its causes.
        blame=read(blame, read_blame) if (at / blame).exists() else None,
        absent=absent,
    )


def _severity(cell: CellReport) -> tuple[bool, int, float]:
    worst = cell.comparison.worst
    failed = cell.comparison.counts.get(Verdict.DIVERGED, 0)
    return cell.blame is not None, failed, 0.0 if worst is None else worst.distance
