"""The commands of the group `scenario`: make one, show one."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waypoint_parity.harness.cli.outcome import HOLDS


@dataclass(frozen=True, kw_only=True)
class ScenarioMakeCommand:
    """Make a scenario for a checkpoint from seeds.

    Example: waypoint-parity scenario make --checkpoint fixtures/golden/base --frames 8 --out walk.safetensors
    """

    checkpoint: str
    """Checkpoint folder or hub id with its revision; it gives the geometry."""
    out: Path
    """Scenario file to write."""
    frames: int = 8
    """Units, such as frames, to generate."""
    seed: int = 11
    """Seed of everything that is drawn."""
    noise_policy: str | None = None
    """How the start noise is drawn; Waypoint: per-frame (a generator for each), global (one) or sliced (one draw)."""
    controls: Literal["idle", "random"] | None = None
    """What the controls of each frame do; random if not given."""
    prompt: str | None = None
    """Text to encode with UMT5 (needs the extra `prompt`); else the prompt is drawn from the seed."""
    text_encoder: str | None = None
    """Folder or hub id with its revision of another UMT5 than google/umt5-xl."""
    prompt_tokens: int | None = None
    """P, the length of the prompt, padding included; 512 for a text, 16 for a drawn one if not given."""
    prompt_padding: int | None = None
    """Padding at the end of a drawn prompt, in tokens; 4 if not given."""
    image: Path | None = None
    """Picture that seeds the session; resized to the model's size."""

    def run(self) -> int:
        """Write the scenario and print what it holds."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.cli.text.scenario import scenario_lines
        from waypoint_parity.harness.run.scenario import write_scenario

        checkpoint = open_checkpoint(self.checkpoint)
        # What is not asked for is the family's to choose.
        own = ("checkpoint", "out", "frames", "seed")
        wanted = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        make = checkpoint.family.make
        scenario = make(checkpoint.geometry, name=self.out.stem, seed=self.seed, units=self.frames, **wanted)
        write_scenario(scenario, self.out)
        print("\n".join(scenario_lines(scenario)))
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class ScenarioShowCommand:
    """Print what a scenario holds.

    Example: waypoint-parity scenario show fixtures/scenarios/walk.safetensors
    """

    scenario: tyro.conf.Positional[Path]
    """Scenario file."""

    def run(self) -> int:
        """Print what the scenario holds."""
        from waypoint_parity.harness.cli.text.scenario import scenario_lines
        from waypoint_parity.harness.run.scenario import read_scenario

        print("\n".join(scenario_lines(read_scenario(self.scenario))))
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class ScenarioCommand:
    """Make or inspect the recorded inputs of a session.

    Example: waypoint-parity scenario show fixtures/scenarios/walk.safetensors
    """

    action: tyro.conf.OmitArgPrefixes[
        Annotated[ScenarioMakeCommand, tyro.conf.subcommand("make", prefix_name=False)]
        | Annotated[ScenarioShowCommand, tyro.conf.subcommand("show", prefix_name=False)]
    ]

    def run(self) -> int:
        """Run the command of the group."""
        return self.action.run()
