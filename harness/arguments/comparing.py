"""The commands that run implementations and compare what they did."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from harness.arguments.shared import Judging, Numerics, Observing, Selecting, Swept


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
class Ring:
    """Print which frame every slot of a dump's key/value rings holds, frame after frame.

    Example: waypoint-parity ring reports/out/candidate --layer 0
    """

    dump: tyro.conf.Positional[Path]
    """Dump of an implementation."""
    layer: int | None = None
    """Print this layer's ring only."""
