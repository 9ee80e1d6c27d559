"""Driving one implementation through a scenario, pass by pass."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.run.adapter import Adapter, Pass
from waypoint_parity.harness.run.scenario import Scenario


class Watcher(Protocol):
    """What follows a session: a recorder, a patcher."""

    def begin(self, frame: int, at: Pass) -> None:
        """Everything shown from now on belongs to pass `at` of `frame`; the pass before is over."""
        ...


def passes(
    adapter: Adapter, scenario: Scenario, config: TransformerConfig, watcher: Watcher | None
) -> Iterator[tuple[int, Pass]]:
    """(frame, pass) of a session of `adapter`, each yielded just before it runs; advance under `exact_arithmetic`.

    A seed image is clock 0; generated frames are numbered from 0 whether or not an image came first.
    """
    for frame, at in _announced(adapter, scenario, config):
        if watcher is not None:
            watcher.begin(frame, at)
        yield frame, at


def _announced(adapter: Adapter, scenario: Scenario, config: TransformerConfig) -> Iterator[tuple[int, Pass]]:
    yield from ((0, at) for at in adapter.start(scenario.prompt, scenario.schedule(config)))
    if scenario.image is not None:
        yield from ((0, at) for at in adapter.append_image(scenario.image))
    for frame in range(scenario.frames):
        yield from ((frame, at) for at in adapter.generate(scenario.noise[frame], scenario.controls(frame)))


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No gradients, and fp32 convolutions in fp32: by default cuDNN rounds their inputs to TF32."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@exact_arithmetic()
def run(adapter: Adapter, scenario: Scenario, config: TransformerConfig, watcher: Watcher | None = None) -> None:
    """Run the whole session."""
    deque(passes(adapter, scenario, config, watcher), maxlen=0)
