"""A cell of a run that `parity` made: other commands take from it how it was run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from waypoint_parity.harness.cli.parity import OUT, ParityCommand
from waypoint_parity.harness.errors import UserError


@dataclass(frozen=True)
class StoredCell:
    """A cell: the command that runs it alone, and its scenario as its variant has it."""

    command: ParityCommand
    scenario: Path

    @property
    def candidate(self) -> str:
        """The candidate, with its options."""
        return self.command.candidate[0]


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """A cell whose checkpoint, scenario, implementations, numerics and bounds are used, in place of the flags."""

    cell: str | None = None
    """Take checkpoint, scenario, implementations, numerics and bounds from this cell of a run of `parity`, named as in
    its table, in place of the flags."""
    run_folder: Annotated[Path, tyro.conf.arg(name="run")] = OUT
    """Folder of that run."""

    def stored(self) -> StoredCell | None:
        """The cell, where one is named. Raises UserError where there is none of this name."""
        if self.cell is None:
            return None
        from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary

        run = read_summary(self.run_folder / SUMMARY_NAME).only(self.cell).cells[self.cell]
        if not run.command:
            raise UserError(
                f"{self.cell}: cannot be run again",
                found="a run that tells no command: of dumps, or of an earlier release",
                expected="a cell that `parity` ran",
                do="name checkpoint, scenario and candidate by their options",
            )
        command = tyro.cli(ParityCommand, args=run.command[1:])
        # A cell has one thread where nothing else is said.
        numerics = replace(command.numerics, threads=command.numerics.threads or 1)
        return StoredCell(replace(command, numerics=numerics), self.run_folder / run.folder / "scenario.safetensors")
