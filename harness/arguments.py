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
class Swept:
    """What is run, and under which variants."""

    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the golden packs' base checkpoint."""
    scenario: Path | None = None
    """Scenario that is swept over schedules, seeds and masks; else fixtures/scenarios/walk.safetensors."""
    image_scenario: Path | None = None
    """Scenario seeded with an image, run as recorded; else, with no --scenario given, the one with a photograph."""
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
    tensors: tuple[str, ...] | None = None
    """Keep full tensors, in tensors.safetensors: of recorded sites that match these globs; without a glob of all."""
    selecting: tyro.conf.OmitArgPrefixes[Selecting] = field(default_factory=Selecting)
    observing: tyro.conf.OmitArgPrefixes[Observing] = field(default_factory=Observing)
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
    truth: Path | None = None
    """Dump of an fp32 run of the reference: also tell how far either dump is from it. Decides nothing."""
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
    swept: tyro.conf.OmitArgPrefixes[Swept] = field(default_factory=Swept)
    seeds: tuple[int, ...] = (11, 12)
    """Noise seeds."""
    three_way: bool = True
    """In bf16, also tell how far either side is from the reference in fp32; costs a third run, and decides nothing."""
    teacher_forced: bool = False
    """Run each variant a second time with the candidate's caches and latents following the reference after every frame.
    What is still off then is the fault of the frame itself."""
    out: Path = Path("reports/out/parity")
    """Folder of the run: one folder per variant, summary.md and summary.json."""
    observing: tyro.conf.OmitArgPrefixes[Observing] = field(default_factory=Observing)
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Measure the noise floor: the reference against itself under changes that must not matter.

    Example: waypoint-parity floor --checkpoint fixtures/golden/base --dtype bf16
    """

    reference: str = "eager"
    """What is right."""
    swept: tyro.conf.OmitArgPrefixes[Swept] = field(default_factory=Swept)
    runs: int = 20
    """Seeds of each kind of session; prompt masks take turns over them."""
    first_seed: int = 1000
    """Noise seed of the first run; the others follow far enough from it to share no frame's noise."""
    out: Path | None = None
    """File to write; else noise_floor.DTYPE.json in the checkpoint folder, where comparisons look for it."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Print which frame every slot of a dump's key/value rings holds, frame after frame.

    Example: waypoint-parity ring reports/out/candidate --layer 0
    """

    dump: tyro.conf.Positional[Path]
    """Dump of an implementation."""
    layer: int | None = None
    """Print this layer's ring only."""


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
    | Annotated[Floor, tyro.conf.subcommand("floor")]
    | Annotated[Ring, tyro.conf.subcommand("ring")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Scenario, tyro.conf.subcommand("scenario")]
)


def parse(arguments: list[str] | None = None) -> Command:
    """The command that `arguments` ask for; a mistake in them ends the process with status 2."""
    return tyro.cli(Command, args=arguments, prog="waypoint-parity", description=_DESCRIPTION)


_DESCRIPTION = "Compare two implementations of the Waypoint world model, site by site."
