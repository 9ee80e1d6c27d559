"""How an implementation takes a checkpoint up: whether it fails, and what it leaves without values."""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import torch

from harness import registry
from harness.adapter import Adapter, Numerics
from harness.checkpoint import Checkpoint
from harness.errors import UserError
from harness.make_scenario import make_scenario
from harness.poison import Unfilled, poisoned, unfilled
from harness.session import exact_arithmetic
from harness.settings import SideBySide, beside_implementation


@dataclass(frozen=True)
class Loading:
    """Why `implementation` failed to load a checkpoint, or what it left `unfilled`.

    `scratch` is memory without values that a frame writes to, as it should: no fault.
    """

    implementation: str
    failure: str | None
    unfilled: list[Unfilled]
    scratch: list[Unfilled]
    configs: list[SideBySide]

    def __bool__(self) -> bool:
        return self.failure is None and not self.unfilled


def load_poisoned(implementation: str, checkpoint: Checkpoint, numerics: Numerics, *, sound: bool) -> Loading:
    """Load the checkpoint, and look for what nobody filled.

    Raises UserError where there is no such implementation, and where one refuses a checkpoint that is `sound`.
    """
    registry.find(registry.split_options(implementation)[0])
    try:
        with poisoned():
            adapter = registry.load(implementation, checkpoint, numerics)
    except Exception as error:  # whatever an implementation makes of a checkpoint that does not fit
        if sound and isinstance(error, UserError):
            raise
        return Loading(implementation, str(error).partition("\n")[0] or type(error).__name__, [], [], [])
    found = unfilled(adapter)
    remaining = _after_a_frame(adapter, checkpoint) if found else []
    return Loading(
        implementation,
        failure=None,
        unfilled=[one for one in found if one in remaining],
        scratch=[one for one in found if one not in remaining],
        configs=beside_implementation(checkpoint, implementation, adapter),
    )


def _after_a_frame(adapter: Adapter, checkpoint: Checkpoint) -> list[Unfilled]:
    """What is unfilled once a frame was generated in one denoise step, or was tried to."""
    scenario = make_scenario(checkpoint.transformer, name="one frame", frames=1, seed=0)
    # The lack of values may be what the frame fails of; it is reported, the consequence is not.
    with suppress(Exception), exact_arithmetic():
        deque(adapter.start(scenario.prompt, torch.tensor([1.0, 0.0])), maxlen=0)
        deque(adapter.generate(scenario.noise[0], scenario.controls(0)), maxlen=0)
    return unfilled(adapter)
