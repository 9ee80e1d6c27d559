"""What several commands are told alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PromptMask = Literal["none", "zeroed", "unzeroed", "all"]
NoisePolicy = Literal["per-frame", "global", "sliced"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """How the implementations compute."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and activations."""
    device: str = "cpu"
    """Device, as torch spells it: cpu, cuda, cuda:1."""
    compiled: bool = False
    """Let an implementation compile itself, where it can; a compiled part shows fewer sites."""
    threads: int | None = None
    """Threads of a CPU run; if not given, one for each cell of parity and each side of play, else the machine's choice.
    Part of the run's identity."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint (`diffusers`), from a pinned revision or a folder."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What is run, and under which variants."""

    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario that is swept over schedules, seeds and masks; else fixtures/scenarios/right.safetensors."""
    image_scenario: Path | None = None
    """Scenario seeded with an image, run as recorded; else, with no --scenario given, left.safetensors."""
    schedules: tuple[str, ...] = ("checkpoint", "three-step", "single-step")
    """Sigma schedules: by name, or as comma-separated values ending in 0."""
    prompt_masks: tuple[PromptMask, ...] = ("none", "zeroed", "unzeroed")
    """Paddings of the prompt; ignored where the checkpoint takes no prompt."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What counts as parity: errors within the noise floor that travels with the checkpoint, where it has one."""

    floor: Path | None = None
    """Noise floor to judge by; else noise_floor.DTYPE.json of the checkpoint folder, if there is one."""
    false_alarm_rate: float = 1e-3
    """Share of right runs that may be called DIVERGED by a noise floor, over all sites of a run."""
    tolerance: float | None = None
    """Judge by this largest relative L2 error of an activation, and not by a noise floor."""
    accept_inputs: tuple[str, ...] = ()
    """What may differ on purpose, by name: sigma, noise, controls, prompt_emb, prompt_pad_mask, image, timestamp,
    button, mouse, scroll, checkpoint, dtype. Each lifts itself alone; the score is then of unequal runs."""
    allow_missing: tuple[str, ...] = ()
    """Sites that one side may lack, as globs such as `decoder.*`; any other missing site fails the run."""


@dataclass(frozen=True, kw_only=True)
class Selecting:
    """What is recorded; the inputs always are."""

    sites: tuple[str, ...] = ("*",)
    """Sites to record, as globs such as `*.attn` or `latent`."""
    frames: tuple[int, ...] | None = None
    """Frames to record, counted from 0; all if not given."""
    steps: tuple[int, ...] | None = None
    """Denoise steps to record, counted from 0; all if not given. Other passes have no steps."""
    every: int = 1
    """Record every Nth frame only."""


@dataclass(frozen=True, kw_only=True)
class Observing:
    """What becomes of a run whose recording changes it."""

    allow_observer_effect: bool = False
    """Go on where the first pass computes other bits with all sites hooked than with one; the manifest then says so."""
