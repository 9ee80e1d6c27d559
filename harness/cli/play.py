"""The command that lets somebody walk through both worlds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.options import NumericsOptions
from waypoint_parity.harness.cli.outcome import HOLDS
from waypoint_parity.harness.errors import UserError

if TYPE_CHECKING:
    from waypoint_parity.harness.families.waypoint.play.stage import Keys, PlayStage

# Of reports/templates/play.js: pause, restart, keep.
PAGE_KEYS = ("p", "r", "k")


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Steer reference and candidate from the keyboard, in a page on this machine: both pictures and their difference.

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
    numerics: tyro.conf.OmitArgPrefixes[NumericsOptions] = field(default_factory=NumericsOptions)

    def run(self) -> int:
        """Serve the page until it is interrupted."""
        from waypoint_parity.harness.families.waypoint.play.server import serving
        from waypoint_parity.reports.play import play_page

        with self.staged() as stage, serving(stage.play, partial(play_page, asdict(stage.seen)), self.port) as address:
            print(f"{address} (Ctrl-C ends it, after the frame in work)", flush=True)
            with suppress(KeyboardInterrupt):
                Event().wait()
        return HOLDS

    @contextmanager
    def staged(self) -> "Iterator[PlayStage]":
        """Both implementations, loaded and in a session. Raises UserError for whatever cannot be used."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.families.waypoint.play.player import Role
        from waypoint_parity.harness.families.waypoint.play.stage import staged
        from waypoint_parity.harness.run.scenario import read_scenario

        numerics = self.numerics.applied()
        checkpoint = open_checkpoint(self.checkpoint or defaults.CHECKPOINT)
        scenario = read_scenario(self.scenario or defaults.SCENARIO)
        keys = _keys(self, checkpoint.geometry.transformer.n_buttons)
        # One thread for each of the two: more of them only wait for each other.
        reference, candidate = (
            Role(name, checkpoint, numerics, self.numerics.threads or 1) for name in (self.reference, self.candidate)
        )
        with staged(reference, candidate, scenario, keys) as stage:
            yield stage


def _keys(command: PlayCommand, n_buttons: int) -> "Keys":
    """What the keys do, as the page is told it."""
    keys: Keys = {}
    for key, button in _pairs(command.buttons, "--buttons"):
        number = int(button) if button.isdecimal() else -1
        if not 0 <= number < n_buttons:
            raise _no_key(f"{key}={button}", f"key=button, a button from 0 to {n_buttons - 1}", "--buttons")
        keys[key] = {"button": number}
    for key, amount in _pairs(command.turns, "--turns"):
        try:
            keys[key] = {"mouse": [float(amount), 0.0]}
        except ValueError:
            raise _no_key(f"{key}={amount}", "key=amount, a number", "--turns") from None
    return keys


def _pairs(words: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for pair in words:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise _no_key(pair, "key=value, such as w=1", option)
        key = key.lower() if len(key) == 1 else key
        if key in PAGE_KEYS:
            raise _no_key(pair, f"a key that the page does not use itself ({', '.join(PAGE_KEYS)})", option)
        yield key, value


def _no_key(found: str, expected: str, option: str) -> UserError:
    return UserError("a key does nothing that is known", found=found, expected=expected, do=f"correct {option}")
