"""The command line as typed values. Nothing here imports torch: parsing is to be instant."""

from typing import Annotated

import tyro

from waypoint_parity.harness.cli.options.baseline import Baseline
from waypoint_parity.harness.cli.options.comparing import Diff, Dump, Parity, Report, Ring
from waypoint_parity.harness.cli.options.playing import Play
from waypoint_parity.harness.cli.options.preparing import Convert, Info, Scenario, ScenarioMake, ScenarioShow
from waypoint_parity.harness.cli.options.searching import Blame, Floor, Scorecard
from waypoint_parity.harness.cli.options.shared import Judging, Numerics, Swept

__all__ = [
    "Baseline",
    "Blame",
    "Convert",
    "Diff",
    "Dump",
    "Floor",
    "Info",
    "Judging",
    "Numerics",
    "Parity",
    "Play",
    "Report",
    "Ring",
    "Scenario",
    "ScenarioMake",
    "ScenarioShow",
    "Scorecard",
    "Swept",
    "parse",
]

Command = (
    Annotated[Dump, tyro.conf.subcommand("dump")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Parity, tyro.conf.subcommand("parity")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Blame, tyro.conf.subcommand("blame")]
    | Annotated[Scorecard, tyro.conf.subcommand("scorecard")]
    | Annotated[Floor, tyro.conf.subcommand("floor")]
    | Annotated[Ring, tyro.conf.subcommand("ring")]
    | Annotated[Baseline, tyro.conf.subcommand("baseline")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Scenario, tyro.conf.subcommand("scenario")]
)


def parse(arguments: list[str] | None = None) -> Command:
    """The command that `arguments` ask for; a mistake in them ends the process with status 2."""
    return tyro.cli(Command, args=arguments, prog="waypoint-parity", description=_DESCRIPTION)


_DESCRIPTION = "Compare two implementations of the Waypoint world model, site by site."
