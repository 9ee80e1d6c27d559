"""The commands that run implementations and compare what they did."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from waypoint_parity.harness.cli.options.shared import Judging, NoisePolicy, Numerics, Observing, Selecting, Swept


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
    """Run reference and candidate over every cell of a sweep and judge each; what `nox -s parity` runs.

    Cells that an earlier run in --out has made already, with the same inputs, checkpoint and code, are not run again: a
    sweep that was killed goes on where it was.

    Example: waypoint-parity parity --candidate my_port.py:MyPort --schedules checkpoint --seeds 11
    """

    reference: str = "eager"
    """What is right."""
    candidate: tuple[str, ...] = ("candidate",)
    """What is to be judged: one implementation, or several."""
    swept: tyro.conf.OmitArgPrefixes[Swept] = field(default_factory=Swept)
    seeds: tuple[int, ...] = (11, 12)
    """Noise seeds."""
    noise_policies: tuple[NoisePolicy, ...] = ()
    """How the start noise is drawn from a seed; as in the scenario if not given."""
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ()
    """Precisions to sweep over, in place of --dtype."""
    attentions: tuple[str, ...] = ("own",)
    """Formulations of the candidate's attention: options of the implementation, `own` for none."""
    plan: Path | None = None
    """TOML file: reference, checkpoint, scenario, levels of [factors], cells to run ([[only]]) or not ([[exclude]]).
    What it names takes the place of the flags."""
    jobs: int | None = None
    """Cells at once, each in a process of its own; if not given, as many as there are cores and as the memory holds
    models for, on an accelerator one. Each has one thread unless --threads says otherwise."""
    scheduler: str | None = None
    """Run cells on the Dask cluster of this scheduler instead, such as tcp://host:8786 (needs the extra `dask`)."""
    fresh: bool = False
    """Run cells again that have been made already."""
    blame: bool = True
    """Search the causes of the first cell that diverges; takes some ten sessions of it."""
    three_way: bool = True
    """In bf16, also tell how far either side is from the reference in fp32; costs a third run, and decides nothing."""
    teacher_forced: bool = False
    """Run each variant a second time with the candidate's caches and latents following the reference after every frame.
    What is still off then is the fault of the frame itself."""
    out: Path = Path("reports/out/parity")
    """Folder of the run: a folder per cell, summary.json, summary.md, junit.xml, report.html and report.md."""
    observing: tyro.conf.OmitArgPrefixes[Observing] = field(default_factory=Observing)
    numerics: tyro.conf.OmitArgPrefixes[Numerics] = field(default_factory=Numerics)
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the report of a run: one HTML file with everything in it, and its Markdown twin.

    Example: waypoint-parity report reports/out/parity
    """

    run: tyro.conf.Positional[Path]
    """Folder that `parity` wrote."""
    out: Path | None = None
    """HTML file to write; else report.html in the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Print which frame every slot of a dump's key/value rings holds, frame after frame.

    Example: waypoint-parity ring reports/out/candidate --layer 0
    """

    dump: tyro.conf.Positional[Path]
    """Dump of an implementation."""
    layer: int | None = None
    """Print this layer's ring only."""
