"""The commands that keep accepted dumps, and hold runs against them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waypoint_parity.harness.cli.options.shared import Judging

STORE = Path("baselines")


@dataclass(frozen=True, kw_only=True)
class BaselineAccept:
    """Store what a run's dumps hold, but their full tensors, as a baseline.

    Example: waypoint-parity baseline accept reports/out/parity nightly
    """

    run: tyro.conf.Positional[Path]
    """Folder of a dump, or of a parity run: then a dump of every cell."""
    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    store: Path = STORE
    """Folder of the baselines."""
    side: Literal["candidate", "reference"] = "candidate"
    """Which dumps of a parity run."""
    force: bool = False
    """Replace a baseline of this name."""


@dataclass(frozen=True, kw_only=True)
class BaselineCheck:
    """Hold a run against a baseline: identical, within noise, regressed (exit 1), or stale (exit 2).

    STALE is a baseline of another checkpoint, schedule, noise, torch, backend, thread count or version: a difference
    then accuses nobody.

    Example: waypoint-parity baseline check nightly reports/out/parity --json check.json
    """

    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    run: tyro.conf.Positional[Path]
    """Folder of a dump, or of a parity run."""
    store: Path = STORE
    """Folder of the baselines."""
    side: Literal["candidate", "reference"] = "candidate"
    """Which dumps of a parity run."""
    accept_provenance: tuple[str, ...] = ()
    """What may differ on purpose, by name: checkpoint, schedule, noise, inputs, dtype, torch, backend, threads, source,
    or one of a group, as in backend.platform."""
    json: Path | None = None
    """Write the check here too."""
    judging: tyro.conf.OmitArgPrefixes[Judging] = field(default_factory=Judging)


@dataclass(frozen=True, kw_only=True)
class BaselineList:
    """List the baselines of a store.

    Example: waypoint-parity baseline list --store baselines
    """

    store: Path = STORE
    """Folder of the baselines."""


@dataclass(frozen=True, kw_only=True)
class BaselinePush:
    """Upload a baseline to a dataset repository of the hub; one that does not exist is made, private.

    Example: waypoint-parity baseline push nightly --repo owner/parity-baselines
    """

    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    repo: str
    """Dataset repository, owner/name."""
    store: Path = STORE
    """Folder of the baselines."""
    force: bool = False
    """Replace a baseline of this name there."""


@dataclass(frozen=True, kw_only=True)
class BaselinePull:
    """Fetch a baseline from a dataset repository of the hub, and verify it.

    Example: waypoint-parity baseline pull nightly --repo
    owner/parity-baselines@93fe14eed217bb09c0244a9d91b2b3e88c3de181
    """

    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    repo: str
    """Dataset repository with its revision: owner/name@revision, all 40 digits."""
    store: Path = STORE
    """Folder of the baselines."""
    force: bool = False
    """Replace a baseline of this name here."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Keep accepted dumps, and hold later runs against them."""

    action: tyro.conf.OmitArgPrefixes[
        Annotated[BaselineAccept, tyro.conf.subcommand("accept", prefix_name=False)]
        | Annotated[BaselineCheck, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[BaselineList, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[BaselinePush, tyro.conf.subcommand("push", prefix_name=False)]
        | Annotated[BaselinePull, tyro.conf.subcommand("pull", prefix_name=False)]
    ]
