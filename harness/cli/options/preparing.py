"""The commands that inspect, convert and make what the others run on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waypoint_parity.harness.cli.options.shared import NoisePolicy, Numerics


@dataclass(frozen=True, kw_only=True)
class Info:
    """Inspect a checkpoint, whole or not, or list the registered implementations.

    Example: waypoint-parity info fixtures/golden/base --implementation candidate
    """

    checkpoint: tyro.conf.Positional[str | None] = None
    """Checkpoint folder, its name in official_weights/ or converted_weights/, or hub id with its revision."""
    implementation: str | None = None
    """Load the checkpoint with this one, and find what that leaves uninitialised."""
    against: str | None = None
    """Another checkpoint, whose configs are laid beside this one's."""
    keys: bool = False
    """List every tensor by itself."""
    json: Path | None = None
    """Write everything found here too."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a checkpoint in another layout, bit for bit.

    Example: waypoint-parity convert official_weights/Waypoint-1-Small --to diffusers --out
    converted_weights/Waypoint-1-Small
    """

    source: tyro.conf.Positional[str]
    """Checkpoint folder, its name in official_weights/ or converted_weights/, or hub id with its revision."""
    to: Literal["diffusers", "package"]
    """Layout: of diffusers (transformer/, vae/), or the official package's own (config.yaml, model.safetensors)."""
    out: Path
    """Folder to write; one that holds this model already is left as it is."""
    force: bool = False
    """Replace another checkpoint in that folder."""


@dataclass(frozen=True, kw_only=True)
class ScenarioMake:
    """Make a scenario for a checkpoint from seeds.

    Example: waypoint-parity scenario make --checkpoint fixtures/golden/base --frames 8 --out walk.safetensors
    """

    checkpoint: str
    """Checkpoint folder or hub id with its revision; it gives the geometry."""
    out: Path
    """Scenario file to write."""
    frames: int = 8
    """Generated frames."""
    seed: int = 11
    """Seed of noise, controls and prompt."""
    noise_policy: NoisePolicy = "per-frame"
    """How the start noise is drawn: a generator per frame, one for the session, or one draw sliced."""
    controls: Literal["idle", "random"] = "random"
    """Buttons, mouse and scroll of each frame."""
    prompt: str | None = None
    """Text to encode with UMT5 (needs the extra `prompt`); else the prompt is drawn from the seed."""
    text_encoder: str | None = None
    """Folder or hub id with its revision of another UMT5 than google/umt5-xl."""
    prompt_tokens: int | None = None
    """P, the length of the prompt, padding included; 512 for a text, 16 for a drawn one if not given."""
    prompt_padding: int = 4
    """How many of a drawn prompt's last tokens are padding."""
    image: Path | None = None
    """Picture that seeds the session; resized to 360 x 640."""


@dataclass(frozen=True, kw_only=True)
class ScenarioShow:
    """Print what a scenario holds.

    Example: waypoint-parity scenario show fixtures/scenarios/walk.safetensors
    """

    scenario: tyro.conf.Positional[Path]
    """Scenario file."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Make or inspect the recorded inputs of a session."""

    action: tyro.conf.OmitArgPrefixes[
        Annotated[ScenarioMake, tyro.conf.subcommand("make", prefix_name=False)]
        | Annotated[ScenarioShow, tyro.conf.subcommand("show", prefix_name=False)]
    ]
