"""The commands of the group `scenario`: make one, show one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from waypoint_parity.harness.cli.outcome import HOLDS
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.levels import NoisePolicy

if TYPE_CHECKING:
    from waypoint_parity.harness.run.adapter import Prompt


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
    """Padding at the end of a drawn prompt, in tokens."""
    image: Path | None = None
    """Picture that seeds the session; resized to 360 x 640."""

    def run(self) -> int:
        """Write the scenario and print what it holds."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.cli.text.scenario import scenario_lines
        from waypoint_parity.harness.families.waypoint.make_scenario import DRAWN_TOKENS, make_scenario, read_image
        from waypoint_parity.harness.run.scenario import write_scenario

        scenario = make_scenario(
            open_checkpoint(self.checkpoint).transformer,
            name=self.out.stem,
            frames=self.frames,
            seed=self.seed,
            noise_policy=self.noise_policy,
            controls=self.controls,
            prompt_tokens=DRAWN_TOKENS if self.prompt_tokens is None else self.prompt_tokens,
            prompt_padding=self.prompt_padding,
            prompt=self._encoded_prompt(),
            image=None if self.image is None else read_image(self.image),
        )
        write_scenario(scenario, self.out)
        print("\n".join(scenario_lines(scenario)))
        return HOLDS

    def _encoded_prompt(self) -> "Prompt | None":
        """The given text, encoded. Raises UserError for an encoder without a text."""
        from waypoint_parity.harness.families.waypoint.prompt_encoder import TEXT_ENCODER, TOKENS, encode_prompt

        if self.prompt is None:
            if self.text_encoder is not None:
                raise UserError(
                    "there is nothing to encode",
                    found=f"--text-encoder {self.text_encoder} alone",
                    expected="a text for it",
                    do="add --prompt, or leave --text-encoder out",
                )
            return None
        tokens = TOKENS if self.prompt_tokens is None else self.prompt_tokens
        return encode_prompt(self.prompt, self.text_encoder or TEXT_ENCODER, tokens)


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
    """Make or inspect the recorded inputs of a session."""

    action: tyro.conf.OmitArgPrefixes[
        Annotated[ScenarioMakeCommand, tyro.conf.subcommand("make", prefix_name=False)]
        | Annotated[ScenarioShowCommand, tyro.conf.subcommand("show", prefix_name=False)]
    ]

    def run(self) -> int:
        """Run the command of the group."""
        return self.action.run()
