"""The commands that look for causes, and those that measure what a verdict rests on."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from waypoint_parity.harness.cli.options.shared import Judging, Numerics, PromptMask, Swept


@dataclass(frozen=True, kw_only=True)
class Blame:
    """Find what causes a divergence: every part that is wrong by itself, and its share of the final frame's error.

    Example: waypoint-parity blame --candidate my_port.py:MyPort --schedule single-step
    """

    reference: str = "eager"
    """What is right. It is loaded twice."""
    candidate: str = "candidate"
    """What is to be searched."""
    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario; else fixtures/scenarios/right.safetensors. The search takes some ten sessions of it."""
    schedule: str = "checkpoint"
    """Sigma schedule, by name, or as comma-separated values ending in 0."""
    seed: int | None = None
    """Noise seed; the scenario's own noise if not given."""
    prompt_mask: PromptMask | None = None
    """Padding of the prompt; as recorded if not given."""
    exchange: tuple[str, ...] = ()
    """Exchange these too, found guilty or not: parts, families (rope, cache, input, ...), `block 3`, globs of sites."""
    gains: bool = True
    """Measure how the reference amplifies an error at each cause on its way to the frame."""
    gain_sites: tuple[str, ...] = ()
    """Measure it at these sites too, as globs such as `*.attn`; two sessions for each."""
    ladder: bool = False
    """Print every site with its own and its inherited error, and its gain where that was measured."""
    budget: float | None = None
    """Seconds after which no new run is begun; what was not measured is listed."""
    resume: bool = False
    """Go on where an interrupted search in --out stopped. Only if no implementation was changed since."""
    out: Path = Path("reports/out/blame")
    """Folder of the search: blame.json and the runs that it rests on."""
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Measure this instrument on known faults: detected, rightly placed, rightly blamed, and no alarm without a fault.

    Example: waypoint-parity scorecard --json scorecard.json
    """

    suite: str = "waypoint_parity.fixtures.faults:SUITE"
    """The faults, as package.module:NAME or path/to/file.py:NAME of a harness.explain.scorecard.fault.Suite."""
    only: tuple[str, ...] = ("*",)
    """Faults and harmless changes to run, as globs of their names."""
    stacked: int = 15
    """Draws of two and three faults at once; 0 for none."""
    seed: int = 0
    """Seed of those draws."""
    sizes: bool = True
    """Look for the smallest size that is detected, of the faults that have one."""
    jobs: int | None = None
    """Processes at once; as many as the machine has cores if not given."""
    json: Path | None = None
    """Write the scorecard here too."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Measure the noise floor: the reference against itself under changes that must not matter.

    Example: waypoint-parity floor --checkpoint CHECKPOINT --scenario SCENARIO --dtype bf16
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
