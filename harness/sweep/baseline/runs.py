"""The dumps of a run: one alone, or one of every cell of a parity run."""

from pathlib import Path
from typing import Literal, NamedTuple

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.diff import Dump, open_dump
from waypoint_parity.harness.record.records import is_dump
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary

SideName = Literal["candidate", "reference"]
# What a dump is called that is no cell's.
ALONE = "dump"


class RunDump(NamedTuple):
    """A dump of a run, and the verdict on its cell; None of a dump alone."""

    dump: Dump
    verdict: str | None = None


class RunDumps(NamedTuple):
    """The dumps of a run by the names of their cells, and the cells that failed to run."""

    dumps: dict[str, RunDump]
    failed: list[str]


def open_run(run: Path, side: SideName) -> RunDumps:
    """The dumps in `run`; of a parity run those of one side.

    Raises UserError for a folder that is neither a dump nor a finished run, and for a broken dump.
    """
    if is_dump(run):
        return RunDumps({ALONE: RunDump(open_dump(run))}, [])
    if not (run / SUMMARY_NAME).is_file():
        raise UserError(
            f"{run}: is no run",
            found="neither a dump nor a finished parity run" if run.is_dir() else "no such folder",
            expected="what `waypoint-parity dump --out` or `waypoint-parity parity --out` wrote, finished",
            do="correct the path, or run it to its end",
        )
    summary = read_summary(run / SUMMARY_NAME)
    dumps = {
        name: RunDump(open_dump(run / cell.folder / side), str(summary.verdict_of(name)))
        for name, cell in summary.cells.items()
    }
    if not dumps:
        raise UserError(
            f"{run}: has no dump",
            found=f"{len(summary.failures)} cells, none of which ran",
            expected="at least one cell that ran",
            do="look into the run's summary.md, and run it again",
        )
    return RunDumps(dumps, [failure.name for failure in summary.failures])
