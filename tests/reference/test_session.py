from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.reference.eager.autoencoder import Autoencoder
from waypoint_parity.reference.eager.model import WorldModel, load_world_model
from waypoint_parity.reference.eager.session import Session

CPU = torch.device("cpu")


def exhaust(passes: Iterable[Pass]) -> None:
    deque(passes, maxlen=0)


def outputs(probe: nn.Module) -> list[Tensor]:
    """What a probe shows from now on."""
    seen: list[Tensor] = []
    probe.register_forward_hook(lambda module, inputs, output: seen.append(output))
    return seen


@pytest.fixture
def started(session: Session, prompt: Prompt, sigmas: Tensor) -> Session:
    exhaust(session.start(prompt, sigmas))
    return session


@pytest.fixture
def noise(scenario: dict[str, Tensor]) -> Tensor:
    return scenario["noise"][0]


def phases(passes: Iterator[Pass]) -> list[tuple[str, int, float | None]]:
    return [(at.phase, at.step, at.sigma) for at in passes]


def test_every_pass_is_announced(
    session: Session, prompt: Prompt, sigmas: Tensor, scenario: dict[str, Tensor], noise: Tensor, controls: Controls
) -> None:
    assert phases(session.start(prompt, sigmas)) == [("prompt", 0, None)]
    assert phases(session.append_image(scenario["image"])) == [("image", 0, 0.0)]
    steps = [("denoise", step, sigmas[step].item()) for step in range(4)]
    assert phases(session.generate(noise, controls)) == [*steps, ("cache", 0, 0.0), ("decode", 0, None)]


def test_a_pass_runs_after_it_was_announced(started: Session, noise: Tensor, controls: Controls) -> None:
    velocities = outputs(started.velocity)
    passes = started.generate(noise, controls)
    next(passes)
    assert not velocities
    next(passes)
    assert len(velocities) == 1


def test_the_clock_counts_given_and_generated_frames(
    started: Session, scenario: dict[str, Tensor], noise: Tensor, controls: Controls
) -> None:
    timestamps = outputs(started.input["timestamp"])
    exhaust(started.append_image(scenario["image"]))
    exhaust(started.generate(noise, controls))
    exhaust(started.generate(noise, controls))
    assert [int(timestamp) for timestamp in timestamps] == [0] + [1] * 5 + [2] * 5
    assert timestamps[0].shape == (1, 1)
    assert timestamps[0].dtype == torch.int64


def test_the_sampler_is_euler_and_the_final_zero_is_no_step(
    started: Session, sigmas: Tensor, noise: Tensor, controls: Controls
) -> None:
    seen, latents, velocities = (outputs(started.input["sigma"]), outputs(started.latent), outputs(started.velocity))
    exhaust(started.generate(noise, controls))
    torch.testing.assert_close(torch.cat(seen).flatten(), sigmas)  # four steps, then the cache pass at 0
    x = noise
    for step, (velocity, latent) in enumerate(zip(velocities, latents, strict=True)):
        x = x + (sigmas[step + 1] - sigmas[step]) * velocity
        torch.testing.assert_close(latent, x)


def test_a_given_image_is_cached_under_idle_controls(started: Session, scenario: dict[str, Tensor]) -> None:
    seen = {name: outputs(started.input[name]) for name in ("button", "mouse", "scroll", "sigma")}
    latents = outputs(started.latent)
    exhaust(started.append_image(scenario["image"]))
    assert all(len(values) == 1 and values[0].eq(0).all() for values in seen.values())
    assert [tuple(latent.shape) for latent in latents] == [(1, 4, 8, 8)]


def test_what_a_probe_returns_is_what_is_computed_with(started: Session, noise: Tensor, controls: Controls) -> None:
    started.velocity.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    latents = outputs(started.latent)
    exhaust(started.generate(noise, controls))
    assert all(latent.equal(noise) for latent in latents)


def test_a_restart_forgets_the_session(
    session: Session, prompt: Prompt, sigmas: Tensor, noise: Tensor, controls: Controls
) -> None:
    latents = outputs(session.latent)
    for _ in range(2):
        exhaust(session.start(prompt, sigmas))
        exhaust(session.generate(noise, controls))
        exhaust(session.generate(noise, controls))
    assert latents[3].equal(latents[11])
    assert latents[7].equal(latents[15])
    assert not latents[3].equal(latents[7])


def test_in_bf16_sigmas_and_their_differences_are_rounded(
    checkpoint: Checkpoint, autoencoder: Autoencoder, prompt: Prompt, sigmas: Tensor, noise: Tensor, controls: Controls
) -> None:
    weights = checkpoint.weights("transformer")
    model = load_world_model(checkpoint.geometry.transformer, weights, device=CPU, dtype=torch.bfloat16)
    session = Session(model, autoencoder, device=CPU, dtype=torch.bfloat16)
    seen, latents, velocities = outputs(session.input["sigma"]), outputs(session.latent), outputs(session.velocity)
    exhaust(session.start(prompt, sigmas))
    exhaust(session.generate(noise, controls))
    assert torch.cat(seen).flatten().tolist() == [1, 0.859375, 0.73046875, 0.3203125, 0]
    rounded = torch.tensor(0.73046875 - 0.859375).bfloat16()
    assert latents[1].equal(latents[0] + rounded * velocities[1])


def test_a_prompt_is_wanted_exactly_where_the_model_takes_one(
    session: Session, model: WorldModel, autoencoder: Autoencoder, prompt: Prompt, sigmas: Tensor
) -> None:
    with pytest.raises(UserError, match="no prompt"):
        exhaust(session.start(None, sigmas))
    promptless = WorldModel(replace(model.config, prompt_conditioning=None))
    with pytest.raises(UserError, match="a prompt of shape"):
        exhaust(Session(promptless, autoencoder, device=CPU, dtype=torch.float32).start(prompt, sigmas))


def test_a_session_must_be_started(session: Session, noise: Tensor, controls: Controls) -> None:
    with pytest.raises(UserError, match="not started"):
        exhaust(session.generate(noise, controls))


def test_a_session_ends_at_the_longest_the_model_knows(started: Session, noise: Tensor, controls: Controls) -> None:
    started.clock = started.model.config.n_frames
    with pytest.raises(UserError, match="frame 64"):
        exhaust(started.generate(noise, controls))
