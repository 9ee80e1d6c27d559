"""The commands on dumps: write one, compare two, print the rings of one."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from waypoint_parity.harness.cli.cells import CellOptions
from waypoint_parity.harness.cli.options import JudgingOptions, NumericsOptions, ObservingOptions
from waypoint_parity.harness.cli.outcome import HOLDS, exit_code, tell
from waypoint_parity.harness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SelectingOptions:
    """What is recorded; the inputs always are."""

    sites: tuple[str, ...] = ("*",)
    """Sites to record, as globs such as `*.attn` or `latent`."""
    frames: tuple[int, ...] | None = None
    """Units, such as frames, to record, counted from 0; all if not given."""
    steps: tuple[int, ...] | None = None
    """Steps to record, counted from 0, of the phases that have several; all if not given."""
    every: int = 1
    """Record every Nth unit only."""


@dataclass(frozen=True, kw_only=True)
class DumpCommand:
    """Run one implementation on a scenario and write what its sites showed.

    Example: waypoint-parity dump candidate --checkpoint fixtures/golden/base --scenario
    fixtures/scenarios/walk.safetensors --out reports/out/candidate

    A cell of the last `parity`: waypoint-parity dump --cell right_single-step_seed11_zeroed-padding --out
    reports/out/again
    """

    implementation: tyro.conf.Positional[str | None] = None
    """A registered name, path/to/file.py:ClassName or package.module:ClassName; else the candidate of --cell."""
    cells: tyro.conf.OmitArgPrefixes[CellOptions] = field(default_factory=CellOptions)
    checkpoint: str | None = None
    """Checkpoint folder, or hub id with its revision: owner/name@revision."""
    scenario: Path | None = None
    """Scenario file."""
    out: Path
    """Folder of the dump. What an earlier dump wrote there is replaced, and other files stay; a folder without a dump
    is refused, unless it is empty."""
    tensors: tuple[str, ...] | None = None
    """Keep full tensors too, in tensors.safetensors: those of recorded sites that match these globs. Without a glob,
    those of all recorded sites."""
    exact: bool = False
    """Follow the run in fp64 beside its own arithmetic, and record beside each observation what it would be without any
    rounding, and how far rounding alone takes it. `diff` then needs no tolerances. Takes some 25 times as long."""
    selecting: tyro.conf.OmitArgPrefixes[SelectingOptions] = field(default_factory=SelectingOptions)
    observing: tyro.conf.OmitArgPrefixes[ObservingOptions] = field(default_factory=ObservingOptions)
    numerics: tyro.conf.OmitArgPrefixes[NumericsOptions] = field(default_factory=NumericsOptions)

    def run(self) -> int:
        """Write the dump."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.compare.exact.recorded import record_session
        from waypoint_parity.harness.judge.growth import LANES
        from waypoint_parity.harness.progress import counter
        from waypoint_parity.harness.record.selection import Selection
        from waypoint_parity.harness.run.scenario import read_scenario

        asked = self._of_cell()
        if asked.implementation is None or asked.checkpoint is None or asked.scenario is None:
            raise UserError(
                "what is to be run is not known",
                found="no --cell, and not all of IMPLEMENTATION, --checkpoint and --scenario",
                expected="these three, or a cell that `parity` ran",
                do="name them; `waypoint-parity dump --help` has an example",
            )
        chosen = self.selecting
        with counter():
            manifest = record_session(
                asked.implementation,
                open_checkpoint(asked.checkpoint),
                read_scenario(asked.scenario),
                asked.numerics.applied(),
                self.out,
                selection=Selection(sites=chosen.sites, units=chosen.frames, steps=chosen.steps, every=chosen.every),
                # `--tensors` without a glob is everything.
                keep=() if self.tensors is None else self.tensors or ("*",),
                lanes=LANES if self.exact else None,
                allow_observer_effect=self.observing.allow_observer_effect,
            )
        exact = "" if manifest.followed is None else f", {manifest.followed.observations} with exact values"
        records = f"{manifest.observed} records of {manifest.expected} expected{exact}"
        print(f"{self.out}: {records}, {manifest.seconds:.1f} s")
        for reason in [] if manifest.followed is None else manifest.followed.unfollowed:
            print(f"  not followed: {reason}")
        return HOLDS

    def _of_cell(self) -> "DumpCommand":
        """The same command with what its cell says, where one is named."""
        stored = self.cells.stored()
        if stored is None:
            return self
        implementation = self.implementation or stored.candidate
        given = stored.command.numerics
        side = "candidate" if implementation == stored.candidate else "reference"
        numerics = NumericsOptions(
            dtype=given.dtype,
            device=given.device,
            threads=given.threads,
            trust_remote_code=given.trust_remote_code,
            side_timeout=given.side_timeout,
            compiled=side in given.compiled_sides,
        )
        return replace(
            self,
            implementation=implementation,
            checkpoint=stored.command.swept.checkpoint,
            scenario=stored.scenario,
            numerics=numerics,
        )


@dataclass(frozen=True, kw_only=True)
class DiffCommand:
    """Compare two dumps and name the first site in execution order that diverges.

    Example: waypoint-parity diff reports/out/reference reports/out/candidate --json diff.json
    """

    reference: tyro.conf.Positional[Path]
    """Dump of the implementation that is right."""
    candidate: tyro.conf.Positional[Path]
    """Dump of the implementation to judge."""
    truth: Path | None = None
    """Dump of an fp32 run of the reference: also tell how far either dump is from it. Decides nothing."""
    json: Path | None = None
    """Write the comparison here too; - writes it to standard output, and nothing else."""
    out: Path | None = None
    """Folder for the same documents as `parity` writes: report.html, report.md, summary.md and junit.xml. `baseline`
    takes it too. The dumps are linked from there, and stay where they are."""
    judging: tyro.conf.OmitArgPrefixes[JudgingOptions] = field(default_factory=JudgingOptions)

    def run(self) -> int:
        """Print the comparison."""
        from waypoint_parity.harness.judge.comparison_text import comparison_lines
        from waypoint_parity.harness.judge.diff import diff_dumps, dtype_of, open_dump
        from waypoint_parity.harness.judge.truth_diff import with_truth
        from waypoint_parity.harness.run.family import family_named, optional_fields

        reference, candidate = open_dump(self.reference), open_dump(self.candidate)
        run = reference.manifest
        folder, digest = Path(run.checkpoint_origin), run.checkpoint_digest
        family = family_named(run.family)
        standards = self.judging.standards(family, dtype_of(reference), folder=folder, digest=digest)
        given = optional_fields(family, run.inputs or {})
        comparison = diff_dumps(reference, candidate, standards.judgement(run.sigmas, given))
        if self.truth is not None:
            comparison = with_truth(comparison, open_dump(self.truth), reference, candidate)
        if self.out is not None:
            from waypoint_parity.harness.sweep.of_dumps import write_run
            from waypoint_parity.reports.documents import write_documents

            write_documents(write_run(reference, candidate, comparison, self.out), self.out)
        tell(comparison_lines(comparison), comparison, self.json)
        return exit_code(comparison.verdict)


@dataclass(frozen=True, kw_only=True)
class RingCommand:
    """Print what every slot of a dump's caches holds, unit after unit.

    Example: waypoint-parity ring reports/out/candidate --layer 0
    """

    dump: tyro.conf.Positional[Path]
    """Dump of an implementation."""
    layer: int | None = None
    """Print this layer's cache only."""

    def run(self) -> int:
        """Print the caches."""
        from waypoint_parity.harness.record.records import read_manifest
        from waypoint_parity.harness.run.family import family_named

        family = family_named(read_manifest(self.dump).family)
        print("\n".join(family.caches.lines(self.dump, self.layer)))
        return HOLDS
