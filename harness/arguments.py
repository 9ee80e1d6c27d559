"""The command line as typed values. Nothing here imports torch: parsing is to be instant."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

PromptMask = Literal["none", "zeroed", "unzeroed", "all"]


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
    """Threads of a CPU run; the machine's choice if not given. Part of the run's identity."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What counts as parity."""

    tolerance: float | None = None
    """Largest relative L2 error of an activation that is taken for noise; else the documented one of the dtype."""
    accept_inputs: tuple[str, ...] = ()
    """Inputs that may differ on purpose, by name: sigma, noise, prompt_emb, ... The score is then of unequal runs."""
    allow_missing: tuple[str, ...] = ()
    """Sites that one side may lack, as globs such as `decoder.*`; any other missing site fails the run."""


@dataclass(frozen=True, kw_only=True)
class Dump:
    """Run one implementation on a scenario and write what its sites showed.

    Example: waypoint-parity dump candidate --checkpoint fixtures/golden/base --scenario
    fixtures/scenarios/walk.safetensors --out reports/out/candidate
    """

    implementation: tyro.conf.Positional[str]
    """A registered name, path/to/file.py:ClassName or package.module:ClassName."""
    checkpoint: str
    """Checkpoint folder, or hub id with its revision: owner/name@revision."""
    scenario: Path
    """Scenario file."""
    out: Path
    """Folder of the dump; an earlier dump there is replaced, anything else is refused."""
    tensors: bool = False
    """Keep the full tensor of every site, in tensors.safetensors."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Compare two dumps and name the first site in execution order that diverges.

    Example: waypoint-parity diff reports/out/reference reports/out/candidate --json diff.json
    """

    reference: tyro.conf.Positional[Path]
    """Dump of what is right."""
    candidate: tyro.conf.Positional[Path]
    """Dump of what is to be judged."""
    json: Path | None = None
    """Write the comparison here too."""
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Run reference and candidate over every variant of a sweep and judge each; what `nox -s parity` runs.

    Example: waypoint-parity parity --candidate my_port.py:MyPort --schedules checkpoint --seeds 11
    """

    reference: str = "eager"
    """What is right."""
    candidate: str = "candidate"
    """What is to be judged."""
    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the golden packs' base checkpoint."""
    scenario: Path | None = None
    """Scenario that is swept over schedules, seeds and masks; else fixtures/scenarios/walk.safetensors."""
    image_scenario: Path | None = None
    """Scenario that is run once, as recorded; else, with no --scenario given, the session seeded with a photograph."""
    schedules: tuple[str, ...] = ("checkpoint", "three-step", "single-step")
    """Sigma schedules: by name, or as comma-separated values ending in 0."""
    seeds: tuple[int, ...] = (11, 12)
    """Noise seeds."""
    prompt_masks: tuple[PromptMask, ...] = ("none", "zeroed", "unzeroed")
    """Paddings of the prompt; ignored where the checkpoint takes no prompt."""
    out: Path = Path("reports/out/parity")
    """Folder of the run: one folder per variant, summary.md and summary.json."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a checkpoint, or list the registered implementations.

    Example: waypoint-parity info fixtures/golden/base
    """

    checkpoint: tyro.conf.Positional[str | None] = None
    """Checkpoint folder or hub id with its revision."""


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
    noise_policy: Literal["per-frame", "global", "sliced"] = "per-frame"
    """How the start noise is drawn: a generator per frame, one for the session, or one draw sliced."""
    controls: Literal["idle", "random"] = "random"
    """Buttons, mouse and scroll of each frame."""
    prompt_tokens: int = 16
    """P, the length of the prompt, padding included."""
    prompt_padding: int = 4
    """How many of the prompt's last tokens are padding."""
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

    action: (
        Annotated[ScenarioMake, tyro.conf.subcommand("make", prefix_name=False)]
        | Annotated[ScenarioShow, tyro.conf.subcommand("show", prefix_name=False)]
    )


Command = (
    Annotated[Dump, tyro.conf.subcommand("dump")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Parity, tyro.conf.subcommand("parity")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Scenario, tyro.conf.subcommand("scenario")]
)


def parse(arguments: list[str] | None = None) -> Command:
    """The command that `arguments` ask for; a mistake in them ends the process with status 2."""
    return tyro.cli(Command, args=arguments, prog="waypoint-parity", description=_DESCRIPTION)


_DESCRIPTION = "Compare two implementations of the Waypoint world model, site by site."
