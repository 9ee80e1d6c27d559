"""Driving one implementation through a scenario, pass by pass."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.adapter import Adapter, Pass
from harness.config import TransformerConfig
from harness.recorder import Recorder
from harness.scenario import Scenario


def passes(
    adapter: Adapter, scenario: Scenario, config: TransformerConfig, recorder: Recorder
) -> Iterator[tuple[int, Pass]]:
    """(frame, pass) of a session of `adapter`, each yielded just before it runs; advance under `exact_arithmetic`.

    A seed image is clock 0; generated frames are numbered from 0 whether or not an image came first.
    """
    for frame, at in _announced(adapter, scenario, config):
        recorder.begin(frame, at)
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
def run(adapter: Adapter, scenario: Scenario, config: TransformerConfig, recorder: Recorder) -> None:
    """Run the whole session."""
    deque(passes(adapter, scenario, config, recorder), maxlen=0)
