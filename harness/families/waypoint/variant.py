"""Variants: one scenario under another sigma schedule, noise seed or prompt mask."""

import dataclasses
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.levels import NoisePolicy, PromptMask
from waypoint_parity.harness.families.waypoint.make_scenario import draw_noise
from waypoint_parity.harness.run.scenario import Scenario

# Schedules that have been seen in the wild, by name; "checkpoint" stands for the checkpoint's own.
SCHEDULES: dict[str, tuple[float, ...] | None] = {
    "checkpoint": None,
    "three-step": (1.0, 0.94921875, 0.83984375, 0.0),
    "single-step": (1.0, 0.0),
}


@dataclass(frozen=True)
class Variant:
    """What differs from the scenario as recorded. A field that is None keeps what the scenario has."""

    schedule: str = "checkpoint"
    seed: int | None = None
    prompt_mask: PromptMask | None = None
    noise_policy: NoisePolicy | None = None

    @property
    def name(self) -> str:
        """A folder name: `schedule_seed_mask_policy`, parts that keep the scenario's own left out."""
        seed = None if self.seed is None else f"seed{self.seed}"
        mask = None if self.prompt_mask is None else f"{self.prompt_mask}-padding"
        policy = None if self.noise_policy is None else f"{self.noise_policy}-noise"
        return "_".join(part for part in (self.schedule, seed, mask, policy) if part)

    def apply(self, scenario: Scenario, config: TransformerConfig) -> Scenario:
        """`scenario` under this variant. Raises UserError for an unknown schedule or a mask without a prompt."""
        changes: dict[str, object] = {"name": f"{scenario.name}/{self.name}"}
        sigmas = parse_schedule(self.schedule)
        if sigmas is not None:
            changes["sigmas"] = torch.tensor(sigmas)
        if self.seed is not None or self.noise_policy is not None:
            seed, policy = scenario.seed if self.seed is None else self.seed, self._policy(scenario)
            noise = draw_noise(config.latent_shape, scenario.frames, seed, policy)
            changes |= {"seed": seed, "noise_policy": policy, "noise": noise}
        if self.prompt_mask is not None:
            changes |= _masked_prompt(scenario, self.prompt_mask)
        return dataclasses.replace(scenario, **changes)  # type: ignore[arg-type]  # one dict of several field types

    def _policy(self, scenario: Scenario) -> NoisePolicy:
        """How noise is drawn: as asked for, else as the scenario's was, where that is known."""
        if self.noise_policy is not None:
            return self.noise_policy
        known = scenario.noise_policy in get_args(NoisePolicy)
        return cast(NoisePolicy, scenario.noise_policy) if known else "per-frame"


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


def _masked_prompt(scenario: Scenario, mask: PromptMask) -> dict[str, Tensor]:
    """The scenario's prompt with another padding.

    `none`: padded positions filled by repeating the real tokens, nothing masked. `zeroed`: as an official run has it,
    padding masked and zero. `unzeroed`: masked, but holding values, as an encoder leaves them. `all`: nothing but
    zeroed padding. A prompt without padding counts its last quarter as padding.
    """
    if scenario.prompt_emb is None or scenario.prompt_pad_mask is None:
        raise UserError(
            f"scenario {scenario.name}: has no prompt to mask",
            found=f"prompt mask {mask}",
            expected="no prompt masks for a checkpoint without a prompt",
            do="leave --prompt-masks out",
        )
    tokens = scenario.prompt_emb.shape[1]
    if tokens < 2:
        raise UserError(
            f"scenario {scenario.name}: its prompt is too short to be padded",
            found=f"{tokens} tokens",
            expected="at least two, one to keep and one to pad",
            do="make a scenario with a longer prompt",
        )
    padding = scenario.prompt_pad_mask[0]
    if not padding.any() or padding.all():
        padding = torch.arange(tokens) >= tokens - max(1, tokens // 4)
    real = scenario.prompt_emb[:, ~padding]
    filler = real[:, torch.arange(tokens) % real.shape[1]]
    if mask == "none":
        padding, embedding = torch.zeros_like(padding), torch.where(padding[:, None], filler, scenario.prompt_emb)
    elif mask == "unzeroed":
        # Reversed: with the filler of `none` the two masks would give every right implementation the same input.
        embedding = torch.where(padding[:, None], filler.flip(1), scenario.prompt_emb)
    elif mask == "zeroed":
        embedding = scenario.prompt_emb.masked_fill(padding[:, None], 0.0)
    else:
        padding, embedding = torch.ones_like(padding), torch.zeros_like(scenario.prompt_emb)
    return {"prompt_emb": embedding, "prompt_pad_mask": padding[None]}
