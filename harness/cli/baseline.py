"""The commands of the group `baseline`: accept, check, list, push and pull."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from waypoint_parity.harness.cli.options import JudgingOptions
from waypoint_parity.harness.cli.outcome import FAILS, HOLDS, UNUSABLE, tell

if TYPE_CHECKING:
    from waypoint_parity.harness.judge.diff import Dump
    from waypoint_parity.harness.judge.judgement import Judgement

STORE = Path("baselines")


@dataclass(frozen=True, kw_only=True)
class BaselineAcceptCommand:
    """Store a run's dumps as a baseline, without their full tensors.

    Example: waypoint-parity baseline accept nightly reports/out/parity
    """

    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    run_folder: tyro.conf.Positional[Path]
    """Folder of a dump, or of a parity run: then a dump of every cell."""
    store: Path = STORE
    """Folder of the baselines."""
    side: Literal["candidate", "reference"] = "candidate"
    """Which dumps of a parity run."""
    force: bool = False
    """Replace a baseline of this name."""

    def run(self) -> int:
        """Store the dumps."""
        from waypoint_parity.harness.cli.text.baseline import accepted_lines
        from waypoint_parity.harness.sweep.baseline.store import accept

        accepted = accept(self.run_folder, self.name, self.store, side=self.side, force=self.force)
        print("\n".join(accepted_lines(accepted, self.store / self.name)))
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class BaselineCheckCommand:
    """Hold a run against a baseline: identical, within noise, regressed (exit 1), or stale (exit 2).

    A baseline of another checkpoint, schedule, noise, torch, backend, thread count or version is STALE: a difference
    then accuses nobody.

    Example: waypoint-parity baseline check nightly reports/out/parity --json check.json
    """

    name: tyro.conf.Positional[str]
    """Name of the baseline."""
    run_folder: tyro.conf.Positional[Path]
    """Folder of a dump, or of a parity run."""
    store: Path = STORE
    """Folder of the baselines."""
    side: Literal["candidate", "reference"] = "candidate"
    """Which dumps of a parity run."""
    accept_provenance: tuple[str, ...] = ()
    """What may differ on purpose, by name: checkpoint, schedule, noise, inputs, dtype, torch, backend, threads, source,
    or one of a group, as in backend.platform."""
    json: Path | None = None
    """Write the check here too; - writes it to standard output, and nothing else."""
    judging: tyro.conf.OmitArgPrefixes[JudgingOptions] = field(default_factory=JudgingOptions)

    def run(self) -> int:
        """Print the check."""
        from waypoint_parity.harness.cli.text.baseline import check_lines
        from waypoint_parity.harness.sweep.baseline.check import Outcome, check
        from waypoint_parity.harness.sweep.baseline.document import open_baseline
        from waypoint_parity.harness.sweep.baseline.runs import open_run

        baseline = open_baseline(self.store / self.name)
        result = check(baseline, open_run(self.run_folder, self.side), self._judgement, self.accept_provenance)
        tell(check_lines(result), result, self.json)
        return HOLDS if result else UNUSABLE if result.outcome is Outcome.STALE else FAILS

    def _judgement(self, dump: "Dump") -> "Judgement":
        """How this dump of the run is judged."""
        from waypoint_parity.harness.judge.diff import dtype_of
        from waypoint_parity.harness.run.family import family_named, optional_fields

        run = dump.manifest
        folder, digest = Path(run.checkpoint_origin), run.checkpoint_digest
        family = family_named(run.family)
        standards = self.judging.standards(family, dtype_of(dump), folder=folder, digest=digest)
        return standards.judgement(run.sigmas, optional_fields(family, run.inputs or {}))


@dataclass(frozen=True, kw_only=True)
class BaselineListCommand:
    """List the baselines of a store.

    Example: waypoint-parity baseline list --store baselines
    """

    store: Path = STORE
    """Folder of the baselines."""

    def run(self) -> int:
        """Print a line for each baseline."""
        from waypoint_parity.harness.cli.text.baseline import stored_lines
        from waypoint_parity.harness.sweep.baseline.store import stored

        print("\n".join(stored_lines(stored(self.store))))
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class BaselinePushCommand:
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

    def run(self) -> int:
        """Upload the baseline, and print how to pull it."""
        from waypoint_parity.harness.sweep.baseline.document import open_baseline
        from waypoint_parity.harness.sweep.baseline.hub import push

        pinned = push(open_baseline(self.store / self.name), self.repo, force=self.force)
        print(f"{self.name}: waypoint-parity baseline pull {self.name} --repo {pinned}")
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class BaselinePullCommand:
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

    def run(self) -> int:
        """Fetch the baseline."""
        from waypoint_parity.harness.cli.text.baseline import accepted_lines
        from waypoint_parity.harness.sweep.baseline.hub import pull

        pulled = pull(self.name, self.repo, self.store, force=self.force)
        print("\n".join(accepted_lines(pulled, self.store / self.name)))
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class BaselineCommand:
    """Keep accepted dumps, and hold later runs against them.

    Example: waypoint-parity baseline accept nightly reports/out/parity
    """

    action: tyro.conf.OmitArgPrefixes[
        Annotated[BaselineAcceptCommand, tyro.conf.subcommand("accept", prefix_name=False)]
        | Annotated[BaselineCheckCommand, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[BaselineListCommand, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[BaselinePushCommand, tyro.conf.subcommand("push", prefix_name=False)]
        | Annotated[BaselinePullCommand, tyro.conf.subcommand("pull", prefix_name=False)]
    ]

    def run(self) -> int:
        """Run the command of the group."""
        return self.action.run()
