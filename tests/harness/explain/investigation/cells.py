"""Cells of a parity run: the dumps of two implementations, and their comparison."""

from dataclasses import dataclass
from pathlib import Path

from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.explain.blame.case import Case
from waypoint_parity.harness.explain.investigation.investigate import investigate
from waypoint_parity.harness.explain.investigation.result import Investigation
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.record.writer import DumpWriter, describe_run


@dataclass(frozen=True)
class CellRun:
    """A case that was run: its dumps lie below `folder`."""

    case: Case
    folder: Path
    comparison: Comparison

    def investigate(self) -> Investigation:
        """Investigate it with both implementations at hand."""
        case = self.case
        sides = case.reference.adapter, case.candidate.adapter
        return investigate(self.folder, *sides, case.checkpoint, case.scenario, self.comparison)


def run_cell(case: Case, folder: Path, keep: tuple[str, ...] = ("latent",)) -> CellRun:
    """Run both sides in lockstep, and dump them with the full tensors of `keep`."""

    def dumped(role: str, side: Side) -> Side:
        manifest = describe_run(side.name, side.adapter, case.numerics, case.checkpoint, case.scenario)
        return Side(side.name, side.adapter, DumpWriter(folder / role, manifest, keep))

    sides = dumped("reference", case.reference), dumped("candidate", case.candidate)
    return CellRun(case, folder, lockstep(*sides, case.checkpoint, case.scenario, case.judgement))
