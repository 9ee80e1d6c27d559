"""The command that gives a first verdict within seconds."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.options import InterpreterOptions, JudgingOptions, SweepOptions
from waypoint_parity.harness.cli.parity import ParityCommand
from waypoint_parity.harness.errors import UserError

# Every phase once, and one frame that attends to another one.
_UNITS = 2


@dataclass(frozen=True, kw_only=True)
class QuickCommand:
    """A first verdict within seconds, on a small checkpoint that comes along.

    It is `parity` of two frames on fixtures/golden/base: with --schedule single-step --seed 11 --prompt-mask zeroed
    --units 2 --no-blame. It ends like `parity`. The checkpoint is random and of Waypoint 1: a pass says that an engine
    is connected rightly, and no more.

    Example: waypoint-parity quick --candidate my_port.py:MyPort --allow-missing '*'
    """

    candidate: str = "candidate"
    """The implementation to judge."""
    interpreters: tyro.conf.OmitArgPrefixes[InterpreterOptions] = field(default_factory=InterpreterOptions)
    allow_missing: tuple[str, ...] = ()
    """Sites that may be missing, as globs such as `decoder.*`. Any other missing site fails the run."""
    out: Path = Path("reports/out/quick")
    """Folder of the run, as of `parity`."""

    def run(self) -> int:
        """Run it, and print what `parity` prints."""
        return self.as_parity().run()

    def as_parity(self) -> ParityCommand:
        """The same as `parity` takes it. Raises UserError where the checkpoint did not come along."""
        scenario = defaults.GOLDEN / "scenario.safetensors"
        if not scenario.is_file():
            raise UserError(
                f"{defaults.GOLDEN}: is not there",
                found="an installation without the golden checkpoint",
                expected="fixtures/golden/base, which the repository and its wheel have",
                do="install waypoint-parity again, or run `parity` with a checkpoint and a scenario of yours",
            )
        return ParityCommand(
            candidate=(self.candidate,),
            interpreters=self.interpreters,
            swept=SweepOptions(
                checkpoint=str(defaults.GOLDEN),
                scenario=scenario,
                schedule=("single-step",),
                units=_UNITS,
                prompt_mask=("zeroed",),
            ),
            seed=(11,),
            jobs=1,
            blame=False,
            out=self.out,
            judging=JudgingOptions(allow_missing=self.allow_missing),
        )
