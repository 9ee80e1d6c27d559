"""The command that lets somebody walk through both worlds."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.options import PairNumericsOptions
from waypoint_parity.harness.cli.outcome import HOLDS
from waypoint_parity.harness.processes import until_interrupted


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Steer reference and candidate from the keyboard, in a page on this machine.

    It shows both pictures and their difference.

    Example: waypoint-parity play --candidate my_port.py:MyPort
    """

    reference: str = "eager"
    """The implementation that is right."""
    candidate: str = "candidate"
    """The implementation to look at."""
    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario that gives prompt, image and schedule; else fixtures/scenarios/right.safetensors."""
    buttons: tuple[str, ...] = ("w=1", "s=2")
    """Buttons that keys hold down, as key=button."""
    turns: tuple[str, ...] = ("a=-0.5", "d=0.5", "ArrowLeft=-0.5", "ArrowRight=0.5")
    """How far keys move the mouse to the right in every frame, as key=amount."""
    port: int = 0
    """Port on 127.0.0.1; a free one if 0."""
    numerics: tyro.conf.OmitArgPrefixes[PairNumericsOptions] = field(default_factory=PairNumericsOptions)

    def run(self) -> int:
        """Serve the page until it is interrupted."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.run.adapter import each_side
        from waypoint_parity.harness.run.scenario import read_scenario
        from waypoint_parity.reports.play import play_page

        numerics = each_side(self.numerics.applied(), self.numerics.compiled_sides)
        checkpoint = open_checkpoint(self.checkpoint or defaults.CHECKPOINT)
        with checkpoint.family.serving(
            (self.reference, self.candidate),
            checkpoint,
            numerics,
            read_scenario(self.scenario or defaults.SCENARIO),
            play_page,
            buttons=self.buttons,
            turns=self.turns,
            port=self.port,
            # One thread for each of the two: more of them only wait for each other.
            threads=self.numerics.threads or 1,
        ) as address:
            print(f"{address} (Ctrl-C ends it, after the frame in work)", flush=True)
            with until_interrupted():
                Event().wait()
        return HOLDS
