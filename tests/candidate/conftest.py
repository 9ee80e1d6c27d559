"""What the candidate's tests share: the golden checkpoint loaded natively, and its scenario."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from waypoint_parity.candidate.config import AutoencoderConfig, WaypointConfig
from waypoint_parity.candidate.engine import Engine
from waypoint_parity.candidate.session import Session
from waypoint_parity.candidate.weights import load_autoencoder, load_waypoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Inputs, schedule
from waypoint_parity.harness.run.scenario import Scenario, read_scenario

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return open_checkpoint(GOLDEN / "base")


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return read_scenario(GOLDEN / "base" / "scenario.safetensors")


@pytest.fixture(scope="session")
def config(checkpoint: Checkpoint) -> WaypointConfig:
    """The golden geometry: local ring of 4 frames, global ring of 8 with dilation 2."""
    return WaypointConfig(
        **{field.name: getattr(checkpoint.geometry.transformer, field.name) for field in fields(WaypointConfig)}
    )


@pytest.fixture(scope="session")
def codec(checkpoint: Checkpoint) -> AutoencoderConfig:
    return AutoencoderConfig(
        **{field.name: getattr(checkpoint.geometry.autoencoder, field.name) for field in fields(AutoencoderConfig)}
    )


@pytest.fixture(scope="session")
def weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return checkpoint.weights("transformer")


@pytest.fixture
def engine(
    checkpoint: Checkpoint, config: WaypointConfig, codec: AutoencoderConfig, weights: dict[str, Tensor]
) -> Engine:
    """A fresh fp32 engine: a test may hook it."""
    model = load_waypoint(config, weights, torch.float32, CPU)
    return Engine(model, load_autoencoder(codec, checkpoint.weights("vae"), torch.float32, CPU))


@pytest.fixture
def session(engine: Engine, scenario: Scenario, checkpoint: Checkpoint) -> Session:
    """A session of the golden scenario, its prompt read."""
    return begin(engine, scenario, checkpoint)


def begin(engine: Engine, scenario: Scenario, checkpoint: Checkpoint) -> Session:
    session = Session(engine, schedule(scenario, checkpoint.geometry.transformer))
    prompt = Inputs(scenario).prompt
    assert prompt is not None
    list(session.read_prompt(prompt.embedding, prompt.pad_mask))
    return session


def generate(session: Session, scenario: Scenario, frame: int) -> list[Tensor]:
    """Generate `frame`, its cache pass included, without decoding; return the latent after each denoise step."""
    latents: list[Tensor] = []
    watch = session.engine.latent.register_forward_hook(lambda module, inputs, latent: latents.append(latent))
    controls = Inputs(scenario).controls(frame)
    steps = session.generate(scenario["noise"][frame], controls.button, controls.mouse, controls.scroll)
    for step in steps:
        if step.phase == "decode":
            break
    watch.remove()
    return latents
