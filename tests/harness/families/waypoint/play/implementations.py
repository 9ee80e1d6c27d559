"""Implementations that cannot be played, each in its way."""

import os
import time
from collections.abc import Iterator

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.reference.eager.adapter import EagerAdapter


class Blind(EagerAdapter):
    """Shows nothing."""

    def sites(self) -> dict[str, object]:  # type: ignore[override]
        return {}


class Stumbling(EagerAdapter):
    """Fails when it is to turn, and dies when a button is pressed."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        if controls.button.any():
            os._exit(7)
        if controls.mouse.any():
            raise ZeroDivisionError("stumbled over a turn")
        return super().generate(noise, controls)


class Loading(EagerAdapter):
    """Says that it is being loaded, and never is done."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        print("loading", flush=True)
        time.sleep(600)
