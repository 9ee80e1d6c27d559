"""The command that measures the instrument itself."""

from dataclasses import dataclass
from pathlib import Path

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.outcome import FAILS, HOLDS, tell


@dataclass(frozen=True, kw_only=True)
class ScorecardCommand:
    """Measure this instrument on known faults.

    Are they detected, rightly placed, rightly blamed? Is there an alarm without a fault?

    Example: waypoint-parity scorecard --json scorecard.json
    """

    suite: str = defaults.FAULTS
    """The faults, as package.module:NAME or path/to/file.py:NAME of a harness.explain.scorecard.fault.Suite."""
    only: tuple[str, ...] = ("*",)
    """Faults and harmless changes to run, as globs of their names."""
    stacked: int = 15
    """Draws of two and three faults at once; 0 for none."""
    seed: int = 0
    """Seed of those draws."""
    sizes: bool = True
    """For the faults that have a size, look for the smallest that is detected."""
    jobs: int | None = None
    """Processes at once; as many as the machine has cores if not given."""
    json: Path | None = None
    """Write the scorecard here too; - writes it to standard output, and nothing else."""

    def run(self) -> int:
        """Measure, and print the scorecard."""
        from waypoint_parity.harness.cli.text.scorecard import scorecard_lines
        from waypoint_parity.harness.explain.scorecard.score import ScorecardPlan, score
        from waypoint_parity.harness.progress import counter

        plan = ScorecardPlan(self.suite, self.only, self.stacked, self.seed, self.sizes)
        with counter() as announce:
            card = score(plan, jobs=self.jobs, announce=announce)
        tell(scorecard_lines(card), card, self.json)
        return HOLDS if card else FAILS
