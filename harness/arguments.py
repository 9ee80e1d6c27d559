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
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint (`diffusers`), from a pinned revision or a folder."""


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
    noise_policy: Literal["per-frame", "global", "sliced"] = "per-frame"
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


Command = (
    Annotated[Dump, tyro.conf.subcommand("dump")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Parity, tyro.conf.subcommand("parity")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Scenario, tyro.conf.subcommand("scenario")]
)


def parse(arguments: list[str] | None = None) -> Command:
    """The command that `arguments` ask for; a mistake in them ends the process with status 2."""
    return tyro.cli(Command, args=arguments, prog="waypoint-parity", description=_DESCRIPTION)


_DESCRIPTION = "Compare two implementations of the Waypoint world model, site by site."
