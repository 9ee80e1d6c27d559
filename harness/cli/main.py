"""The command line as a whole: parses, runs the command, and turns errors into exit codes.

0: parity holds. 1: it does not. 2: the runs cannot be compared, or the call is wrong. 70: an implementation
failed, or the harness. 128 and the number of the signal, such as 130 after Ctrl-C: it was asked to end.
"""

import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from importlib.metadata import version
from inspect import getdoc
from operator import or_
from typing import Annotated, Any, Protocol

import tyro

from waypoint_parity.harness.cli.baseline import BaselineCommand
from waypoint_parity.harness.cli.blame import BlameCommand
from waypoint_parity.harness.cli.checkpoint import ConvertCommand, InfoCommand, SitesCommand
from waypoint_parity.harness.cli.dump import DiffCommand, DumpCommand, RingCommand
from waypoint_parity.harness.cli.ending import as_a_program, watched
from waypoint_parity.harness.cli.floor import FloorCommand
from waypoint_parity.harness.cli.format import CheckDumpCommand, SchemaCommand
from waypoint_parity.harness.cli.frames import FramesCommand
from waypoint_parity.harness.cli.importing import ImportCommand
from waypoint_parity.harness.cli.outcome import HOLDS, OUR_FAULT, UNUSABLE
from waypoint_parity.harness.cli.parity import ParityCommand, ReportCommand
from waypoint_parity.harness.cli.play import PlayCommand
from waypoint_parity.harness.cli.quick import QuickCommand
from waypoint_parity.harness.cli.scenario import ScenarioCommand
from waypoint_parity.harness.cli.scorecard import ScorecardCommand
from waypoint_parity.harness.cli.worker import WorkerCommand
from waypoint_parity.harness.errors import EngineError, UserError
from waypoint_parity.harness.processes import keep_memory

# By what they are for, in the order in which they are needed.
GROUPS: Mapping[str, Mapping[str, type["Command"]]] = {
    "first steps": {"quick": QuickCommand, "info": InfoCommand, "sites": SitesCommand},
    "compare": {
        "parity": ParityCommand,
        "diff": DiffCommand,
        "frames": FramesCommand,
        "report": ReportCommand,
        "play": PlayCommand,
    },
    "find the cause": {"blame": BlameCommand, "ring": RingCommand},
    "record and convert": {
        "dump": DumpCommand,
        "check-dump": CheckDumpCommand,
        "import": ImportCommand,
        "scenario": ScenarioCommand,
        "convert": ConvertCommand,
        "schema": SchemaCommand,
    },
    "keep and measure": {"baseline": BaselineCommand, "floor": FloorCommand, "scorecard": ScorecardCommand},
    "service": {"worker": WorkerCommand},
}
_DESCRIPTION = "Compare two implementations of a world or video model, site by site."


class Command(Protocol):
    """What a command line asks for."""

    def run(self) -> int:
        """Do it, and return the exit code."""
        ...


# tyro wraps help for as many columns as there are, and never ends where there are fewer than its margins.
_FEWEST_COLUMNS = 40


@as_a_program
def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`, print its outcome and return the exit code."""
    command = parse(argv)
    keep_memory()
    try:
        return command.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return OUR_FAULT
    except Exception:
        traceback.print_exc()
        print("this is a fault of waypoint-parity, please report it", file=sys.stderr)
        return OUR_FAULT


def parse(argv: list[str] | None = None) -> Command:
    """The command that `argv` asks for; a mistake in it ends the process with status 2, --version with 0."""
    given = sys.argv[1:] if argv is None else argv
    if given == ["--version"]:
        print(f"waypoint-parity {version('waypoint-parity')}")
        sys.exit(HOLDS)
    if given in ([], ["-h"], ["--help"]):
        print(first_screen(), file=sys.stdout if given else sys.stderr)
        sys.exit(HOLDS if given else UNUSABLE)
    with _enough_columns():
        parsed: Command = tyro.cli(any_command(), args=argv, prog="waypoint-parity", description=_DESCRIPTION)
    return parsed


def any_command() -> Any:
    """The type of a command line, as tyro parses it."""
    named = [(name, command) for group in GROUPS.values() for name, command in group.items()]
    return reduce(or_, (Annotated[command, tyro.conf.subcommand(name)] for name, command in named))


def first_screen() -> str:
    """Every command in a line, by what it is for."""
    lines = [_DESCRIPTION, "", "usage: waypoint-parity COMMAND ...     waypoint-parity COMMAND --help"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:12} {(getdoc(command) or '').splitlines()[0]}" for name, command in commands.items()]
    return "\n".join(lines)


@contextmanager
def _enough_columns() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    columns = shutil.get_terminal_size().columns
    if columns >= _FEWEST_COLUMNS:
        yield
        return
    os.environ["COLUMNS"] = str(_FEWEST_COLUMNS)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def program() -> int:
    """The console script: `main`, watched over from outside."""
    return watched(main)


if __name__ == "__main__":
    sys.exit(program())
