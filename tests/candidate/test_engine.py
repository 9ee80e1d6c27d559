"""The compiled pass, watched and unwatched."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.candidate.compiler import needs_compiler
from tests.candidate.conftest import begin, generate
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.engine import Engine
from waypoint_parity.candidate.model import Waypoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.scenario import Scenario

pytestmark = [needs_compiler, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]


@pytest.fixture
def engine(engine: Engine, config: WaypointConfig) -> Engine:
    """Two blocks: each site that a hook watches splits a graph, and each part is compiled."""
    model = Waypoint(dataclasses.replace(config, n_layers=2)).requires_grad_(False)
    return Engine(model, engine.autoencoder)


@pytest.fixture
def compiled(engine: Engine) -> Iterator[Engine]:
    torch.compiler.reset()
    yield Engine(engine.model, engine.autoencoder, compiled=True)
    torch.compiler.reset()


def close(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all((a - e).norm() <= 3e-6 * e.norm() for a, e in zip(actual, expected, strict=True))


def test_hooks_attached_after_compilation_are_seen_and_obeyed(
    engine: Engine, compiled: Engine, scenario: Scenario, checkpoint: Checkpoint
) -> None:
    plain = generate(begin(engine, scenario, checkpoint), scenario, 0)
    assert close(generate(begin(compiled, scenario, checkpoint), scenario, 0), plain)

    def patch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * 1.5

    hook = engine.model.layers[1].mlp.register_forward_hook(patch)
    patched = generate(begin(engine, scenario, checkpoint), scenario, 0)
    assert not close(patched, plain)
    assert close(generate(begin(compiled, scenario, checkpoint), scenario, 0), patched)

    hook.remove()
    assert close(generate(begin(compiled, scenario, checkpoint), scenario, 0), plain)
