"""The transformer pass as a whole: its sites are where its values flow, and it compiles to one graph."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.candidate.compiler import needs_compiler
from tests.candidate.conftest import generate
from waypoint_parity.candidate.blocks import FramePlan
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.engine import Engine, compiled_pass
from waypoint_parity.candidate.model import Waypoint
from waypoint_parity.candidate.session import Session
from waypoint_parity.harness.run.scenario import Scenario

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture
def running(session: Session, scenario: Scenario) -> Session:
    """The golden session with two frames generated."""
    for frame in range(2):
        generate(session, scenario, frame)
    return session


def velocity(session: Session, transformer: Callable[..., Tensor], noise: Tensor) -> Tensor:
    """One denoise pass over the frame in work, by `transformer`, on rings of its own."""
    engine = session.engine
    cond = session.memory.cond(session.schedule.levels[1.0])
    control = engine.model.read_control(torch.ones(1, 1, engine.model.config.d_model))
    plan = FramePlan(
        engine.model.rope(session.timestamp, torch.float32),
        engine.local.at(session.clock),
        engine.dilated.at(session.clock),
    )
    rings = tuple(cache.ring.clone() for cache in engine.rings)
    return transformer(noise, session.memory.modulations(cond), session.prompt, control, rings, plan)


SITES = (
    "patchify",
    "out_norm",
    "blocks.3.cond_head",
    *(f"blocks.3.attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "gate_proj", "out_proj")),
    "blocks.3.prompt_cross_attn",
    "blocks.3.ctrl_mlpfusion",
    "blocks.3.mlp",
    "blocks.3.out",
)


@pytest.mark.parametrize("site", SITES)
@torch.no_grad()
def test_what_a_site_hands_back_is_what_the_pass_goes_on_with(site: str, running: Session, scenario: Scenario) -> None:
    model = running.engine.model
    plain = velocity(running, model, scenario["noise"][2])
    # A shift, not a scale: q and k are normed behind their projections.
    model.get_submodule(site).register_forward_hook(lambda module, inputs, output: output.flip(-1) + 1)
    assert (velocity(running, model, scenario["noise"][2]) - plain).norm() > 1e-4 * plain.norm()


@torch.no_grad()
def test_rows_and_columns_of_the_token_grid_keep_their_places(config: WaypointConfig) -> None:
    model = Waypoint(dataclasses.replace(config, height=3, width=5, n_layers=0))
    patches = torch.arange(3 * 5 * 16.0).view(1, 15, 16)
    latent = model._to_grid(patches)
    assert latent.shape == (1, 1, 4, 6, 10)
    for token, channel, row, column in ((0, 0, 0, 1), (7, 2, 1, 0), (14, 3, 1, 1)):
        y, x = divmod(token, 5)
        expected = patches[0, token, channel * 4 + row * 2 + column]
        assert latent[0, 0, channel, 2 * y + row, 2 * x + column] == expected


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Compiled code of other tests counts towards torch's limit of recompilations."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_the_pass_compiles_to_one_graph_that_agrees_with_the_eager_pass(running: Session, scenario: Scenario) -> None:
    compiled = torch.compile(running.engine.model, fullgraph=True)
    expected = velocity(running, running.engine.model, scenario["noise"][2])
    actual = velocity(running, compiled, scenario["noise"][2])
    assert (actual - expected).norm() <= 3e-6 * expected.norm()


@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_one_graph_serves_all_frames(running: Session, scenario: Scenario) -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    compiled = compiled_pass(running.engine.model, fullgraph=True, backend=count)
    # Both rings fill, and wrap.
    for clock in range(10):
        running.seek(clock)
        velocity(running, compiled, scenario["noise"][2])
    assert graphs == 1


@torch.no_grad()
def test_a_model_without_prompt_control_or_gate_is_built_and_runs(config: WaypointConfig, engine: Engine) -> None:
    bare = dataclasses.replace(
        config, prompt_conditioning=None, ctrl_conditioning=None, gated_attn=False, value_residual=True
    )
    session = Session(Engine(Waypoint(bare), engine.autoencoder), torch.tensor([1.0, 0.0]))
    noise = torch.randn(1, 1, 4, 8, 8)
    steps = session.generate(noise, torch.zeros(16), torch.zeros(2), torch.zeros(1))
    assert [step.phase for step in steps] == ["denoise", "cache", "decode"]
