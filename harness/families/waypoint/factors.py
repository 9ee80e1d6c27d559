"""What a sweep of Waypoint can vary: sigma schedule, noise seed, padding of the prompt, how noise is drawn."""

from collections.abc import Collection
from dataclasses import replace
from typing import cast, get_args

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.draws import NoisePolicy, draw_noise, noise_policy
from waypoint_parity.harness.run.scenario import Scenario

# Schedules that have been seen in the wild, by name; "checkpoint" stands for the checkpoint's own.
SCHEDULES: dict[str, tuple[float, ...] | None] = {
    "checkpoint": None,
    "three-step": (1.0, 0.94921875, 0.83984375, 0.0),
    "single-step": (1.0, 0.0),
}
MASKS = ("none", "zeroed", "unzeroed", "all")


def with_schedule(scenario: Scenario, geometry: WaypointGeometry, level: str) -> Scenario:
    """Under the schedule called `level`, or the comma-separated sigmas that it lists."""
    sigmas = parse_schedule(level)
    return scenario if sigmas is None else scenario.with_tensors(sigmas=torch.tensor(sigmas))


def parse_schedule(text: str) -> tuple[float, ...] | None:
    """The schedule called `text`, or the comma-separated sigmas that it lists; None means the checkpoint's own."""
    if text in SCHEDULES:
        return SCHEDULES[text]
    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError:
        raise UserError(
            "unknown sigma schedule",
            found=text,
            expected=f"one of {', '.join(SCHEDULES)}, or comma-separated sigmas such as 1.0,0.5,0.0",
            do="correct the schedule",
        ) from None


def with_seed(scenario: Scenario, geometry: WaypointGeometry, level: str) -> Scenario:
    """With noise drawn from another seed, as the scenario's was, where that is known."""
    try:
        seed = int(level)
    except ValueError:
        raise UserError("no noise seed", found=level[:80], expected="a whole number", do="correct the seed") from None
    policy = scenario.labels.get("noise_policy")
    known = policy in get_args(NoisePolicy)
    return _drawn(scenario, geometry, seed, cast(NoisePolicy, policy) if known else "per-frame")


def with_policy(scenario: Scenario, geometry: WaypointGeometry, level: str) -> Scenario:
    """With noise drawn otherwise from the same seed."""
    return _drawn(scenario, geometry, scenario.seed, noise_policy(level))


def _drawn(scenario: Scenario, geometry: WaypointGeometry, seed: int, policy: NoisePolicy) -> Scenario:
    noise = draw_noise(geometry.transformer.latent_shape, scenario.units, seed, policy)
    labels = {**scenario.labels, "noise_policy": policy}
    return replace(scenario.with_tensors(noise=noise), seed=seed, labels=labels)


def with_mask(scenario: Scenario, geometry: WaypointGeometry, level: str) -> Scenario:
    """The scenario's prompt with another padding.

    `none`: padded positions filled by repeating the real tokens, nothing masked. `zeroed`: as an official run has it,
    padding masked and zero. `unzeroed`: masked, but holding values, as an encoder leaves them. `all`: nothing but
    zeroed padding. A prompt without padding counts its last quarter as padding.
    """
    if level not in MASKS:
        raise UserError("unknown prompt mask", found=level, expected=f"one of {', '.join(MASKS)}", do="correct it")
    embedding, pad_mask = scenario.get("prompt_emb"), scenario.get("prompt_pad_mask")
    if embedding is None or pad_mask is None:
        raise UserError(
            f"scenario {scenario.name}: has no prompt to mask",
            found=f"prompt mask {level}",
            expected="no prompt masks for a checkpoint without a prompt",
            do="leave --prompt-mask out",
        )
    if embedding.shape[1] < 2:
        raise UserError(
            f"scenario {scenario.name}: its prompt is too short to be padded",
            found=f"{embedding.shape[1]} tokens",
            expected="at least two, one to keep and one to pad",
            do="make a scenario with a longer prompt",
        )
    return scenario.with_tensors(**_masked(embedding, pad_mask, level))


def _masked(prompt: Tensor, pad_mask: Tensor, mask: str) -> dict[str, Tensor]:
    tokens, padding = prompt.shape[1], pad_mask[0]
    if not padding.any() or padding.all():
        padding = torch.arange(tokens) >= tokens - max(1, tokens // 4)
    real = prompt[:, ~padding]
    filler = real[:, torch.arange(tokens) % real.shape[1]]
    if mask == "none":
        padding, embedding = torch.zeros_like(padding), torch.where(padding[:, None], filler, prompt)
    elif mask == "unzeroed":
        # Reversed: with the filler of `none` the two masks would give every right implementation the same input.
        embedding = torch.where(padding[:, None], filler.flip(1), prompt)
    elif mask == "zeroed":
        embedding = prompt.masked_fill(padding[:, None], 0.0)
    else:
        padding, embedding = torch.ones_like(padding), torch.zeros_like(prompt)
    return {"prompt_emb": embedding, "prompt_pad_mask": padding[None]}


def padding_said(levels: Collection[str], tested: Collection[str]) -> str | None:
    """How a sentence calls some masks of those tested."""
    if "none" not in tested:
        return None
    if set(levels) == {"none"}:
        return "without padding"
    return "with padding" if set(levels) == set(tested) - {"none"} else None
