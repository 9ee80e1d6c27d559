"""Scenarios of HY-WorldPlay: what a session is given, whether it fits a checkpoint, its passes, what can be varied.

A unit is a chunk of F=4 latents. `noise` [unit,C,F,h,w] fp32; `timesteps` [S] fp32 of every step; `prompt_emb`
[tokens,E] fp32, without padding; of every latent `viewmats` [unit,F,4,4] and `intrinsics` [unit,F,3,3] fp32, world to
camera and normalised, and `action` [unit,F] fp32, a class. `points` [P,3] fp32 are those by which the vendor tells how
much two cameras see alike, where a session is long enough for a choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.hy_worldplay.config import CHUNK, SIZE, TEXT_LENGTH, TIMESTEPS, WINDOW, HyGeometry
from waypoint_parity.harness.families.hy_worldplay.sites import DECODE, DENOISE, MEMORY, PLAN, VIDEO
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.scenario import Scenario

# The vendor draws so many points within so many metres.
POINTS, RADIUS = 50_000, 8.0
_TOKENS, _ACTIONS = 11, 81
# Every tensor has a generator of its own: another number of tokens leaves the noise as it is.
_NOISE, _PROMPT, _CAMERA, _POINTS = range(4)
# Of the published trajectories.
_INTRINSICS = ((0.5051, 0.0, 0.5), (0.0, 0.8979, 0.5), (0.0, 0.0, 1.0))


def made(geometry: HyGeometry, *, name: str, seed: int, units: int) -> Scenario:
    """A scenario from a seed alone: a camera that walks and turns, and an action for each latent."""
    config, latents = geometry.transformer, CHUNK * units
    generator = _generator(seed, _CAMERA)
    tensors = {
        "noise": _noise(config.in_channels, units, seed),
        "timesteps": torch.tensor(TIMESTEPS),
        "prompt_emb": torch.randn(_TOKENS, config.text_dim, generator=_generator(seed, _PROMPT)),
        "viewmats": _walk(latents, generator).unflatten(0, (units, CHUNK)),
        "intrinsics": torch.tensor(_INTRINSICS).repeat(units, CHUNK, 1, 1),
        "action": torch.randint(_ACTIONS, (units, CHUNK), generator=generator).float(),
    }
    if latents > WINDOW:
        tensors["points"] = _ball(_generator(seed, _POINTS))
    return Scenario("hy-worldplay", name, seed, units, tensors)


def _generator(seed: int, what: int) -> torch.Generator:
    return torch.Generator().manual_seed(4 * seed + what)


def _noise(channels: int, units: int, seed: int) -> Tensor:
    """One draw of the whole session, as the vendor makes it, chunk by chunk: [unit,C,F,h,w]."""
    whole = torch.randn(channels, CHUNK * units, *SIZE, generator=_generator(seed, _NOISE))
    chunks: Tensor = whole.unflatten(1, (units, CHUNK)).transpose(0, 1)
    return chunks.contiguous()


def _walk(latents: int, generator: torch.Generator) -> Tensor:
    """World to camera [latents,4,4] of a camera that turns by some degrees and takes a step, latent by latent."""
    turns = torch.cumsum(0.1 * torch.randn(latents, generator=generator), 0)
    steps = torch.cumsum(0.3 * torch.randn(latents, 3, generator=generator), 0)
    views = torch.eye(4).repeat(latents, 1, 1)
    views[:, 0, 0], views[:, 2, 2] = turns.cos(), turns.cos()
    views[:, 0, 2], views[:, 2, 0] = turns.sin(), -turns.sin()
    views[:, :3, 3] = steps
    return views


def _ball(generator: torch.Generator) -> Tensor:
    """Points evenly within a ball [P,3]."""
    directions = torch.randn(POINTS, 3, generator=generator)
    radii = RADIUS * torch.rand(POINTS, 1, generator=generator) ** (1 / 3)
    points: Tensor = radii * directions / directions.norm(dim=1, keepdim=True)
    return points


def problems(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the fields of a file, beyond names and dtypes."""
    found = [f"{name} is empty" for name, tensor in tensors.items() if not tensor.numel()]
    units = {tensors[name].shape[0] for name in ("noise", "viewmats", "intrinsics", "action") if name in tensors}
    return found + ([f"fields of {' and '.join(map(str, sorted(units)))} chunks"] if len(units) > 1 else [])


def check(scenario: Scenario, geometry: HyGeometry) -> None:
    """Raise UserError, naming everything that does not fit, where the scenario is not one for the checkpoint."""
    config, units = geometry.transformer, scenario.units
    shapes = {
        "noise": (units, config.in_channels, CHUNK, *SIZE),
        "viewmats": (units, CHUNK, 4, 4),
        "intrinsics": (units, CHUNK, 3, 3),
        "action": (units, CHUNK),
    }
    wrong = [
        f"{name} {list(scenario[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if scenario[name].shape != shape
    ]
    points = scenario.get("points")
    if CHUNK * units > WINDOW and (points is None or points.dim() != 2 or points.shape[1] != 3):
        wrong.append("no points [P, 3], by which so long a session chooses its memory")
    prompt, steps = tuple(scenario["prompt_emb"].shape), scenario["timesteps"]
    if len(prompt) != 2 or prompt[1] != config.text_dim or not 0 < prompt[0] <= TEXT_LENGTH:
        wrong.append(f"prompt_emb {prompt}, not (up to {TEXT_LENGTH}, {config.text_dim})")
    levels = [*steps.flatten().tolist(), 0.0]
    if steps.dim() != 1 or not all(one > other for one, other in pairwise(levels)):
        wrong.append(f"timesteps {levels[:-1]}, which do not fall to 0")
    if wrong:
        raise UserError(
            f"{scenario.name}: is no scenario for this checkpoint",
            found=listed(wrong, most=len(wrong)),
            expected="noise, timesteps, prompt, cameras and actions for this model",
            do="make one for this checkpoint: waypoint-parity scenario make --checkpoint CHECKPOINT --out FILE",
        )


def sigmas(scenario: Scenario) -> list[float]:
    """The noise levels, 0 at the end."""
    return [*(scenario["timesteps"] / 1000).tolist(), 0.0]


def session(scenario: Scenario) -> Iterator[tuple[int, Pass]]:
    """(chunk, pass) of every pass: what it makes, its memory behind the first, its steps, its latents decoded."""
    levels = sigmas(scenario)[:-1]
    for unit in range(scenario.units):
        yield unit, Pass(PLAN)
        if unit:
            yield unit, Pass(MEMORY)
        yield from ((unit, Pass(DENOISE, step, sigma)) for step, sigma in enumerate(levels))
        yield from ((unit, Pass(DECODE, latent)) for latent in range(CHUNK))
        yield unit, Pass(VIDEO)


def of_chunks(scenario: Scenario, units: int) -> Scenario:
    """The first chunks alone."""
    names = ("noise", "viewmats", "intrinsics", "action")
    return replace(scenario.with_tensors(**{name: scenario[name][:units] for name in names}), units=units)


def padded(embedding: Tensor) -> Tensor:
    """A prompt as the model attends to it: [1,P,E], zeros behind its tokens."""
    lacking = TEXT_LENGTH - embedding.shape[0]
    return torch.cat([embedding, embedding.new_zeros(lacking, embedding.shape[1])])[None]


def by_latent(scenario: Scenario, name: str) -> Tensor:
    """A field of all latents of a session, without a unit's axis."""
    return scenario[name].flatten(0, 1)


def whole_noise(scenario: Scenario) -> Tensor:
    """The noise of all latents [1,C,F,h,w]."""
    return scenario["noise"].transpose(0, 1).flatten(1, 2)[None]


def told(latents: Sequence[int], count: int) -> Tensor:
    """Latents by their numbers, as sites show them: [count] int64, 1 where they are named."""
    named = torch.zeros(count, dtype=torch.int64)
    named[list(latents)] = 1
    return named


# What can be varied. A level is spelt as on the command line.


def with_seed(scenario: Scenario, geometry: HyGeometry, level: str) -> Scenario:
    """With other noise."""
    if not level.isdecimal() or int(level) >= 2**31:
        raise UserError("no noise seed", found=level[:80], expected="a whole number from 0", do="correct it")
    noise = _noise(geometry.transformer.in_channels, scenario.units, int(level))
    return replace(scenario.with_tensors(noise=noise), seed=int(level))


def with_steps(scenario: Scenario, geometry: HyGeometry, level: str) -> Scenario:
    """With the first so many of the steps, or with all."""
    if level == "recorded":
        return scenario
    steps = scenario["timesteps"].shape[0]
    if not level.isdecimal() or not 0 < int(level) <= steps:
        raise UserError("no number of steps", found=level[:80], expected=f"from 1 to {steps}", do="correct it")
    return scenario.with_tensors(timesteps=scenario["timesteps"][: int(level)].clone())
