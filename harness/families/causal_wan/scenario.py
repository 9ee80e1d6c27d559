"""Scenarios of causal Wan: what a session is given, whether it fits a checkpoint, its passes, what can be varied.

`noise` [unit,S,C,N,h,w] fp32: of every chunk of N latents, what each of its S steps begins with, or mixes in;
`timesteps` and `sigmas` [S] fp32 of every step; `prompt_emb` [tokens,E] fp32, without padding; the numbers `shift` and
`context`, the timestep of the clean pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.causal_wan.config import EVERYTHING, MOST_LATENTS, CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.sites import CLEAN, DENOISE
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.scenario import Scenario

FAMILY_NAME = "causal-wan"
SHIFT, STEPS, CONTEXT = 5.0, 4, 0.0
# Latents of a chunk that is made, and their size: 15 tokens each.
_LATENTS, _SIZE = 1, (6, 10)
_TOKENS = 11
_TRAIN_STEPS = 1000
# Every tensor has a generator of its own: another number of tokens leaves the noise as it is.
_NOISE, _PROMPT = 0, 1


def schedule(steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """(timesteps [S], sigmas [S]) fp32, as the official scheduler makes them, at equal distances before the shift."""
    levels = torch.linspace(1.0, 0.0, _TRAIN_STEPS + 1)[:-1]
    shifted = shift * levels / (1 + (shift - 1) * levels)
    sigmas = shifted[[_TRAIN_STEPS - _TRAIN_STEPS * (steps - step) // steps for step in range(steps)]]
    return sigmas * _TRAIN_STEPS, sigmas


def made(geometry: CausalWanGeometry, *, name: str, seed: int, units: int, prompt_tokens: int = _TOKENS) -> Scenario:
    """A scenario from a seed alone."""
    config = geometry.transformer
    timesteps, sigmas = schedule(STEPS, SHIFT)
    tensors = {
        "noise": _drawn((units, STEPS, config.in_dim, _LATENTS, *_SIZE), seed, _NOISE),
        "timesteps": timesteps,
        "sigmas": sigmas,
        "prompt_emb": _drawn((min(prompt_tokens, config.text_len), config.text_dim), seed, _PROMPT),
    }
    return Scenario(FAMILY_NAME, name, seed, units, tensors, {"shift": SHIFT, "context": CONTEXT})


def _drawn(shape: Sequence[int], seed: int, what: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2 * seed + what))


def problems(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the fields of a file, beyond names and dtypes."""
    return [f"{name} is empty" for name, tensor in tensors.items() if not tensor.numel()]


def check(scenario: Scenario, geometry: CausalWanGeometry) -> None:
    """Raise UserError, naming everything that does not fit, where the scenario is not one for the checkpoint."""
    config, noise, prompt = geometry.transformer, scenario["noise"], scenario["prompt_emb"]
    steps = scenario["timesteps"].shape[0]
    wrong = [f"{name} is no number of it" for name in ("shift", "context") if name not in scenario.numbers]
    if noise.dim() != 6 or noise.shape[2] != config.in_dim or any(size % 2 for size in noise.shape[4:]):
        wrong.append(f"noise {list(noise.shape)}, not [unit, S, {config.in_dim}, N, h, w] with even h and w")
    else:
        if noise.shape[1] != steps:
            wrong.append(f"noise for {noise.shape[1]} steps, and {steps} timesteps")
        if (room := geometry.slots - geometry.sink_size) < noise.shape[3]:
            wrong.append(f"chunks of {noise.shape[3]} latents, and room for {room} in the window")
        if geometry.local_attn_size == EVERYTHING and noise.shape[0] * noise.shape[3] > MOST_LATENTS:
            wrong.append(
                f"{noise.shape[0] * noise.shape[3]} latents, and a model that keeps all of at most {MOST_LATENTS}"
            )
    if prompt.dim() != 2 or prompt.shape[1] != config.text_dim or not 0 < prompt.shape[0] <= config.text_len:
        wrong.append(f"prompt_emb {list(prompt.shape)}, not [up to {config.text_len}, {config.text_dim}]")
    if scenario["sigmas"].shape != (steps,):
        wrong.append(f"sigmas {list(scenario['sigmas'].shape)} of {steps} timesteps")
    elif not all(one > other for one, other in pairwise([*scenario["sigmas"].tolist(), 0.0])):
        wrong.append("sigmas that do not fall to above 0")
    elif not all(one > other for one, other in pairwise([*scenario["timesteps"].tolist(), 0.0])):
        wrong.append("timesteps that do not fall to above 0")
    if wrong:
        raise UserError(
            f"{scenario.name}: is no scenario for this checkpoint",
            found=listed(wrong, most=len(wrong)),
            expected="noise of every step, a schedule, a prompt, and a window that holds a chunk",
            do="make one for this checkpoint: waypoint-parity scenario make --checkpoint CHECKPOINT --out FILE",
        )


def session(scenario: Scenario) -> Iterator[tuple[int, Pass]]:
    """(chunk, pass) of every pass: each step, and the one that leaves the clean latents in the cache."""
    for unit in range(scenario.units):
        for step, sigma in enumerate(scenario["sigmas"].tolist()):
            yield unit, Pass(DENOISE, step, sigma)
        yield unit, Pass(CLEAN, sigma=0.0)


def first_chunks(scenario: Scenario, chunks: int) -> Scenario:
    """The inputs of the first chunks alone."""
    return replace(scenario.with_tensors(noise=scenario["noise"][:chunks]), units=chunks)


def padded(embedding: Tensor, geometry: CausalWanGeometry) -> Tensor:
    """A prompt as the model attends to it: [1,P,E], zeros behind its tokens."""
    lacking = geometry.transformer.text_len - embedding.shape[0]
    return torch.cat([embedding, embedding.new_zeros(lacking, embedding.shape[1])])[None]


# What can be varied. A level is spelt as on the command line.


def with_seed(scenario: Scenario, geometry: CausalWanGeometry, level: str) -> Scenario:
    """With other noise, of every step."""
    seed = _whole(level, "noise seed", least=0)
    return replace(scenario.with_tensors(noise=_drawn(scenario["noise"].shape, seed, _NOISE)), seed=seed)


def with_steps(scenario: Scenario, geometry: CausalWanGeometry, level: str) -> Scenario:
    """In so many steps with noise that is drawn anew, or in those that are recorded."""
    if level == "recorded":
        return scenario
    steps, shape = _whole(level, "number of steps"), scenario["noise"].shape
    timesteps, sigmas = schedule(steps, scenario.numbers["shift"])
    noise = _drawn((shape[0], steps, *shape[2:]), scenario.seed, _NOISE)
    return scenario.with_tensors(timesteps=timesteps, sigmas=sigmas, noise=noise)


def with_chunks(scenario: Scenario, geometry: CausalWanGeometry, level: str) -> Scenario:
    """With so many chunks: the first ones, or noise that is drawn anew for more."""
    chunks, shape = _whole(level, "number of chunks"), scenario["noise"].shape
    if chunks <= shape[0]:
        return first_chunks(scenario, chunks)
    more = _drawn((chunks, *shape[1:]), scenario.seed, _NOISE)[shape[0] :]
    return replace(scenario.with_tensors(noise=torch.cat([scenario["noise"], more])), units=chunks)


def with_latents(scenario: Scenario, geometry: CausalWanGeometry, level: str) -> Scenario:
    """With chunks of so many latents, of noise that is drawn anew."""
    latents, shape = _whole(level, "number of latents"), scenario["noise"].shape
    return scenario.with_tensors(noise=_drawn((*shape[:3], latents, *shape[4:]), scenario.seed, _NOISE))


def with_prompt(scenario: Scenario, geometry: CausalWanGeometry, level: str) -> Scenario:
    """With a prompt of so many tokens: the first ones of it, and drawn ones behind them."""
    tokens, held = _whole(level, "number of tokens"), scenario["prompt_emb"]
    drawn = _drawn((max(tokens, held.shape[0]), held.shape[1]), scenario.seed, _PROMPT)
    return scenario.with_tensors(prompt_emb=torch.cat([held, drawn[held.shape[0] :]])[:tokens].clone())


def _whole(level: str, what: str, least: int = 1) -> int:
    if not level.isdecimal() or not least <= int(level) < 2**31:
        raise UserError(f"no {what}", found=level[:80], expected=f"a whole number from {least}", do="correct it")
    return int(level)
