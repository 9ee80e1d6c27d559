"""The command that lets somebody walk."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from waypoint_parity.harness.cli.options.shared import Numerics


@dataclass(frozen=True, kw_only=True)
class Play:
    """Steer reference and candidate from the keyboard, in a page on this machine: both pictures and their difference.

    Example: waypoint-parity play --candidate my_port.py:MyPort
    """

    reference: str = "eager"
    """What is right."""
    candidate: str = "candidate"
    """What is looked at."""
    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario that gives prompt, image and schedule; else fixtures/scenarios/right.safetensors."""
    buttons: tuple[str, ...] = ("w=1", "s=2")
    """What keys hold down, as key=button."""
    turns: tuple[str, ...] = ("a=-0.5", "d=0.5", "ArrowLeft=-0.5", "ArrowRight=0.5")
    """What keys move the mouse by in every frame, to the right, as key=amount."""
    port: int = 0
    """Port on 127.0.0.1; a free one if 0."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)
