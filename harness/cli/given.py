"""What the command line gives, as the harness's values. What is not given comes from fixtures/."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from pathlib import Path

import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.cli import options as arguments
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.case import Case, load_case
from waypoint_parity.harness.families.waypoint.prompt_encoder import TEXT_ENCODER, TOKENS, encode_prompt
from waypoint_parity.harness.families.waypoint.variant import PromptMask, Variant
from waypoint_parity.harness.judge.standards import standards
from waypoint_parity.harness.run.adapter import DTYPES, Numerics, Prompt
from waypoint_parity.harness.run.scenario import Scenario, read_scenario

_FIXTURES = Path(str(resources.files("waypoint_parity.fixtures")))
# The small trained world, and its rendered walks.
CHECKPOINT = _FIXTURES / "world" / "checkpoint"
SCENARIO = _FIXTURES / "scenarios" / "right.safetensors"
RECORDED = _FIXTURES / "scenarios" / "left.safetensors"


@dataclass(frozen=True)
class Sweep:
    """A checkpoint, a scenario and the schedules and masks to run it under, and perhaps one seeded with an image."""

    checkpoint: Checkpoint
    scenario: Scenario
    image: Scenario | None
    schedules: tuple[str, ...]
    masks: tuple[PromptMask | None, ...]

    def kinds(self, seeds: Sequence[int]) -> list[list[Scenario]]:
        """Sessions of each kind, one for every seed: a schedule, over which the masks take turns, or the image."""
        config = self.checkpoint.transformer
        kinds = [
            [
                Variant(schedule, seed, mask).apply(self.scenario, config)
                for seed, mask in zip(seeds, cycle(self.masks), strict=False)
            ]
            for schedule in self.schedules
        ]
        if self.image is not None:
            kinds.append([Variant(seed=seed).apply(self.image, config) for seed in seeds])
        return kinds


def sweep(given: arguments.Swept) -> Sweep:
    """The sweep asked for. Raises UserError for a checkpoint or scenario that cannot be read."""
    checkpoint = open_checkpoint(given.checkpoint or CHECKPOINT)
    scenario = read_scenario(given.scenario or SCENARIO)
    image = given.image_scenario
    if image is None and given.scenario is None:
        image = RECORDED
    masks = given.prompt_masks if checkpoint.transformer.prompt_conditioning else (None,)
    return Sweep(checkpoint, scenario, None if image is None else read_scenario(image), given.schedules, masks)


def case(given: arguments.Blame) -> Case:
    """The case to be searched. Raises UserError for a checkpoint, scenario or implementation that is none."""
    how = numerics(given.numerics)
    checkpoint = open_checkpoint(given.checkpoint or CHECKPOINT)
    recorded = read_scenario(given.scenario or SCENARIO)
    variant = Variant(given.schedule, given.seed, given.prompt_mask)
    scenario = recorded if variant == Variant() else variant.apply(recorded, checkpoint.transformer)
    judged_by = standards(given.judging, how.dtype_name, folder=checkpoint.folder, digest=checkpoint.digest)
    judgement = judged_by.judgement_of(scenario, checkpoint.transformer)
    return load_case(given.reference, given.candidate, checkpoint, how, scenario, judgement)


def numerics(given: arguments.Numerics) -> Numerics:
    """The numerics asked for, after setting the thread count of this process. Raises UserError for an absent device."""
    if given.threads is not None:
        _set_threads(given.threads)
    try:
        device = torch.device(given.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {given.device} cannot be used",
            found=str(error).splitlines()[0],
            expected="a device that this torch build and this machine have",
            do="give another --device, or install a torch build for it",
        ) from error
    options = ("trust-remote-code",) if given.trust_remote_code else ()
    return Numerics(DTYPES[given.dtype], device, given.compiled, options)


def _set_threads(threads: int) -> None:
    if threads < 1:
        raise UserError(
            "threads cannot be set", found=str(threads), expected="at least 1", do="correct --threads, or leave it out"
        )
    torch.set_num_threads(threads)


def encoded_prompt(given: arguments.ScenarioMake) -> Prompt | None:
    """The prompt of the text that was given, encoded. Raises UserError for an encoder without a text."""
    if given.prompt is None:
        if given.text_encoder is not None:
            raise UserError(
                "there is nothing to encode",
                found=f"--text-encoder {given.text_encoder} alone",
                expected="a text for it",
                do="add --prompt, or leave --text-encoder out",
            )
        return None
    tokens = TOKENS if given.prompt_tokens is None else given.prompt_tokens
    return encode_prompt(given.prompt, given.text_encoder or TEXT_ENCODER, tokens)
