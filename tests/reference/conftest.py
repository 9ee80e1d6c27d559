from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.reference.eager.autoencoder import Autoencoder, load_autoencoder
from waypoint_parity.reference.eager.model import WorldModel, load_world_model
from waypoint_parity.reference.eager.session import Session

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return open_checkpoint(GOLDEN / "base")


@pytest.fixture(scope="session")
def config(checkpoint: Checkpoint) -> TransformerConfig:
    return checkpoint.geometry.transformer


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> WorldModel:
    return load_world_model(
        checkpoint.geometry.transformer, checkpoint.weights("transformer"), device=CPU, dtype=torch.float32
    )


@pytest.fixture(scope="session")
def autoencoder(checkpoint: Checkpoint) -> Autoencoder:
    return load_autoencoder(checkpoint.geometry.autoencoder, checkpoint.weights("vae"), device=CPU)


@pytest.fixture
def session(model: WorldModel, autoencoder: Autoencoder) -> Session:
    return Session(model, autoencoder, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="session")
def scenario() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "image" / "scenario.safetensors")


@pytest.fixture(scope="session")
def prompt(scenario: dict[str, torch.Tensor]) -> Prompt:
    return Prompt(scenario["prompt_emb"], scenario["prompt_pad_mask"])


@pytest.fixture(scope="session")
def controls(scenario: dict[str, torch.Tensor]) -> Controls:
    return Controls(scenario["button"][0], scenario["mouse"][0], scenario["scroll"][0])


@pytest.fixture(scope="session")
def sigmas(config: TransformerConfig) -> torch.Tensor:
    return torch.tensor(config.scheduler_sigmas)


@pytest.fixture
def bare_config(config: TransformerConfig) -> TransformerConfig:
    """The other geometry: value residual, no gate, no prompt, no control fusion, patch 1."""
    return replace(
        config,
        value_residual=True,
        gated_attn=False,
        prompt_conditioning=None,
        ctrl_conditioning=None,
        patch=(1, 1),
        n_kv_heads=config.n_heads,
    )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], None]:
    """Give every weight of a module a value: some modules leave theirs to the checkpoint."""

    def fill(module: nn.Module) -> None:
        for parameter in module.parameters():
            nn.init.normal_(parameter.requires_grad_(False), std=0.3)

    return fill
