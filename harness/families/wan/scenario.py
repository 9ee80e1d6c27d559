"""Scenarios of Wan: what a session is given, whether it fits a checkpoint, its passes, what can be varied.

`noise` [unit,C,T,h,w] fp32 of every clip; `timesteps` [S] int64 and `sigmas` [S+1] fp32 of every step; `prompt_emb` and
`negative_emb` [tokens,E] fp32, without padding; the numbers `guidance` and `shift`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.wan.config import PICTURES, PIXELS, WanGeometry
from waypoint_parity.harness.families.wan.sites import BRANCHES, DECODE, DENOISE, VIDEO
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.scenario import Scenario

GUIDANCE, SHIFT, STEPS = 5.0, 3.0, 4
# Latents of a scenario that is made: 9 pictures of 48 x 80.
_LATENTS, _SIZE = 3, (6, 10)
_TOKENS, _NEGATIVE_TOKENS = 11, 7
# The largest noise level of the unshifted schedule of 1000 steps, as fp32 holds it.
_MOST_SIGMA, _TRAIN_STEPS = 0.9990000128746033, 1000
# Every tensor has a generator of its own: another number of tokens leaves the noise as it is.
_NOISE, _PROMPT, _NEGATIVE = 0, 1, 2


def schedule(steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """(timesteps [S] int64, sigmas [S+1] fp32), as the official scheduler makes them.

    Noise levels in equal distances from the largest to 0, shifted; timesteps are a thousand of them, cut to whole
    numbers; the last sigma is 0.
    """
    levels = torch.tensor([_MOST_SIGMA * (1 - step / steps) for step in range(steps)], dtype=torch.float64)
    sigmas = shift * levels / (1 + (shift - 1) * levels)
    return (sigmas * _TRAIN_STEPS).to(torch.int64), torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def made(geometry: WanGeometry, *, name: str, seed: int, units: int, prompt_tokens: int = _TOKENS) -> Scenario:
    """A scenario from a seed alone."""
    config = geometry.transformer
    timesteps, sigmas = schedule(STEPS, SHIFT)
    shape = (units, config.in_dim, _LATENTS, *_SIZE)
    tokens = min(prompt_tokens, config.text_len), min(_NEGATIVE_TOKENS, config.text_len)
    tensors = {
        "noise": _drawn(shape, seed, _NOISE),
        "timesteps": timesteps,
        "sigmas": sigmas,
        "prompt_emb": _drawn((tokens[0], config.text_dim), seed, _PROMPT),
        "negative_emb": _drawn((tokens[1], config.text_dim), seed, _NEGATIVE),
    }
    return Scenario("wan", name, seed, units, tensors, {"guidance": GUIDANCE, "shift": SHIFT})


def _drawn(shape: Sequence[int], seed: int, what: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3 * seed + what))


def problems(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the fields of a file, beyond names and dtypes."""
    found = [f"{name} is empty" for name, tensor in tensors.items() if not tensor.numel()]
    steps = tensors["timesteps"].shape[0] if tensors.get("timesteps") is not None else 0
    if "sigmas" in tensors and tensors["sigmas"].shape != (steps + 1,):
        found.append(f"{steps} timesteps, and sigmas {list(tensors['sigmas'].shape)}")
    return found


def check(scenario: Scenario, geometry: WanGeometry) -> None:
    """Raise UserError, naming everything that does not fit, where the scenario is not one for the checkpoint."""
    config = geometry.transformer
    noise, steps = scenario["noise"], scenario["timesteps"].shape[0]
    wrong = [f"{name} is no number of it" for name in ("guidance", "shift") if name not in scenario.numbers]
    if noise.dim() != 5 or noise.shape[1] != config.in_dim or any(size % 2 for size in noise.shape[3:]):
        wrong.append(f"noise {list(noise.shape)}, not [unit, {config.in_dim}, T, h, w] with even h and w")
    for name in ("prompt_emb", "negative_emb"):
        shape = list(scenario[name].shape)
        if len(shape) != 2 or shape[1] != config.text_dim or not 0 < shape[0] <= config.text_len:
            wrong.append(f"{name} {shape}, not [up to {config.text_len}, {config.text_dim}]")
    if scenario["sigmas"].shape != (steps + 1,) or not steps:
        wrong.append(f"sigmas {list(scenario['sigmas'].shape)} of {steps} timesteps")
    elif not all(one > other for one, other in pairwise(scenario["sigmas"].tolist())):
        wrong.append("sigmas that do not fall")
    if scenario.numbers.get("guidance", 2.0) <= 1:
        # Then one side makes no second branch.
        wrong.append(f"guidance {scenario.numbers['guidance']:g}, which is no guidance")
    if wrong:
        raise UserError(
            f"{scenario.name}: is no scenario for this checkpoint",
            found=listed(wrong, most=len(wrong)),
            expected="noise, schedule, prompts and a guidance above 1 for this model",
            do="make one for this checkpoint: waypoint-parity scenario make --checkpoint CHECKPOINT --out FILE",
        )


def session(scenario: Scenario) -> Iterator[tuple[int, Pass]]:
    """(clip, pass) of every pass: each step with both branches, a latent after the other decoded, and the video."""
    sigmas = scenario["sigmas"].tolist()
    for unit in range(scenario.units):
        for step, sigma in enumerate(sigmas[:-1]):
            yield unit, Pass(DENOISE, step, sigma, BRANCHES)
        yield from ((unit, Pass(DECODE, latent)) for latent in range(scenario["noise"].shape[2]))
        yield unit, Pass(VIDEO)


def of_clips(scenario: Scenario, clips: Sequence[int]) -> Scenario:
    """The inputs of some clips alone."""
    return replace(scenario.with_tensors(noise=scenario["noise"][list(clips)]), units=len(clips))


def alone(scenario: Scenario, geometry: WanGeometry, clips: Sequence[int]) -> tuple[Scenario, Sequence[int]]:
    """A session with some clips, each one step long, and the clips that it has."""
    first = {"timesteps": scenario["timesteps"][:1], "sigmas": torch.stack([scenario["sigmas"][0], torch.tensor(0.0)])}
    return of_clips(scenario, clips).with_tensors(**first), clips


def pictures(scenario: Scenario) -> tuple[int, int, int]:
    """(pictures of a clip, their height, their width)."""
    latents, height, width = scenario["noise"].shape[2:]
    return 1 + PICTURES * (latents - 1), PIXELS * height, PIXELS * width


def padded(embedding: Tensor, geometry: WanGeometry) -> Tensor:
    """A prompt as the model attends to it: [1,P,E], zeros behind its tokens."""
    lacking = geometry.transformer.text_len - embedding.shape[0]
    return torch.cat([embedding, embedding.new_zeros(lacking, embedding.shape[1])])[None]


# What can be varied. A level is spelt as on the command line.


def with_seed(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With other noise."""
    seed = _whole(level, "noise seed", least=0)
    return replace(scenario.with_tensors(noise=_drawn(scenario["noise"].shape, seed, _NOISE)), seed=seed)


def with_steps(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """In so many steps, or in those that are recorded."""
    if level == "recorded":
        return scenario
    timesteps, sigmas = schedule(_whole(level, "number of steps"), scenario.numbers["shift"])
    return scenario.with_tensors(timesteps=timesteps, sigmas=sigmas)


def with_shift(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With the schedule of as many steps under another shift."""
    shift = _number(level, "shift")
    timesteps, sigmas = schedule(scenario["timesteps"].shape[0], shift)
    changed = scenario.with_tensors(timesteps=timesteps, sigmas=sigmas)
    return replace(changed, numbers={**scenario.numbers, "shift": shift})


def with_guidance(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With another guidance."""
    return replace(scenario, numbers={**scenario.numbers, "guidance": _number(level, "guidance")})


def with_prompt(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With a prompt of so many tokens: the first ones of it, and drawn ones behind them."""
    return scenario.with_tensors(prompt_emb=_of_length(scenario, "prompt_emb", level, _PROMPT))


def with_negative(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With a negative prompt of so many tokens; one of the prompt itself is called `prompt`."""
    if level == "prompt":
        return scenario.with_tensors(negative_emb=scenario["prompt_emb"].clone())
    return scenario.with_tensors(negative_emb=_of_length(scenario, "negative_emb", level, _NEGATIVE))


def with_frames(scenario: Scenario, geometry: WanGeometry, level: str) -> Scenario:
    """With so many pictures a clip, of noise that is drawn anew."""
    count = _whole(level, "number of pictures")
    if count % PICTURES != 1:
        raise UserError(
            "no clip has so many pictures",
            found=level,
            expected="1 and a multiple of 4: 1, 5, 9, ...",
            do="correct the number",
        )
    units, channels, _, height, width = scenario["noise"].shape
    shape = (units, channels, 1 + count // PICTURES, height, width)
    return scenario.with_tensors(noise=_drawn(shape, scenario.seed, _NOISE))


def _of_length(scenario: Scenario, name: str, level: str, what: int) -> Tensor:
    tokens, held = _whole(level, "number of tokens"), scenario[name]
    drawn = _drawn((max(tokens, held.shape[0]), held.shape[1]), scenario.seed, what)
    return torch.cat([held, drawn[held.shape[0] :]])[:tokens].clone()


def _whole(level: str, what: str, least: int = 1) -> int:
    if not level.isdecimal() or not least <= int(level) < 2**31:
        raise UserError(f"no {what}", found=level[:80], expected=f"a whole number from {least}", do="correct it")
    return int(level)


def _number(level: str, what: str) -> float:
    try:
        value = float(level)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise UserError(f"no {what}", found=level[:80], expected="a number above 0", do="correct it")
    return value
