"""What the tests of the official package share: its adapters, and the sessions that they run."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.parity.implementations import GOLDEN, Capture, by_pack_name
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import DTYPES, Adapter, Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

Tensors = dict[str, Tensor]


@pytest.fixture(scope="session")
def capture(base: Checkpoint) -> Callable[..., Tensors]:
    """Every tensor of a session of an implementation on the golden checkpoint, by its name in a pack."""

    @functools.cache
    def adapter(implementation: str, dtype: str, compiled: bool) -> Adapter:
        return registry.load(implementation, base, Numerics(DTYPES[dtype], torch.device("cpu"), compiled))

    def captured(implementation: str, scenario: Scenario, dtype: str, *, compiled: bool = False) -> Tensors:
        chosen, seen = adapter(implementation, dtype, compiled), Capture()
        with recording(chosen.sites(), seen) as recorder:
            run(chosen, scenario, base, recorder)
        return by_pack_name(seen.tensors)

    return captured


@pytest.fixture(scope="session")
def golden_scenario() -> Callable[[str], Scenario]:
    """The scenario of a golden pack."""
    return lambda pack: read_scenario(GOLDEN / pack / "scenario.safetensors")
