"""The parity run: reference against candidate over every variant of its scenarios."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from harness import registry
from harness.adapter import Adapter, Numerics
from harness.checkpoint import Checkpoint
from harness.comparison import COMPARISON_NAME, Comparison, Verdict
from harness.dump import DumpWriter, describe_run
from harness.errors import UserError
from harness.lockstep import Side, lockstep
from harness.observer import check_observer
from harness.records import to_json
from harness.scenario import Scenario, write_scenario
from harness.standards import Standards
from harness.storage import replacing, writing
from harness.teacher import check_teachable
from harness.variant import Variant

SUMMARY_SCHEMA = "waypoint-parity/summary/1"
SUMMARY_NAME = "summary.json"
TEACHER_FORCED_NAME = "comparison-teacher-forced.json"
_SEVERITY = (Verdict.IDENTICAL, Verdict.WITHIN_NOISE, Verdict.MISSING, Verdict.DIVERGED, Verdict.INCOMPARABLE)


@dataclass(frozen=True)
class Cell:
    """One run of a parity sweep: a scenario as its variant has it."""

    scenario: Scenario
    variant: Variant

    @property
    def name(self) -> str:
        """The cell's folder."""
        return self.scenario.name.replace("/", "_")


@dataclass(frozen=True)
class ParityRun:
    """What a parity run is to do: the names of the two implementations, and everything that both are given."""

    reference: str
    candidate: str
    checkpoint: Checkpoint
    numerics: Numerics
    standards: Standards
    out: Path
    allow_observer_effect: bool = False
    # Run every cell a second time, with the candidate's caches and latents following the reference's.
    teacher_forced: bool = False
    # In a lower precision than fp32, run the reference in fp32 beside both.
    three_way: bool = True


@dataclass(frozen=True)
class _Implementation:
    """One of the two, loaded, and what its manifests say of the observer (see harness.observer)."""

    name: str
    adapter: Adapter
    observer: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A finished parity run. True where parity holds in every variant."""

    schema: str
    reference: str
    candidate: str
    numerics: dict[str, str]
    checkpoint: str
    checkpoint_digest: str
    seconds: float
    # Of the free-running sessions, and of the teacher-forced ones where they were asked for.
    variants: dict[str, Comparison]
    teacher_forced: dict[str, Comparison] = {}

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any variant."""
        return max((self.verdict_of(name) for name in self.variants), key=_SEVERITY.index)

    def verdict_of(self, name: str) -> Verdict:
        """The verdict of a variant: of its free-running session, unless that of the teacher-forced one is worse."""
        rollouts = (self.variants[name], self.teacher_forced.get(name, self.variants[name]))
        return max((rollout.verdict for rollout in rollouts), key=_SEVERITY.index)

    def __bool__(self) -> bool:
        return self.verdict.passes


def plan(checkpoint: Checkpoint, swept: Iterable[tuple[Scenario, Iterable[Variant]]]) -> list[Cell]:
    """The cells of a sweep. Raises UserError for a scenario that does not fit, and for an empty sweep."""
    cells = [
        Cell(variant.apply(scenario, checkpoint.transformer), variant)
        for scenario, variants in swept
        for variant in variants
    ]
    if not cells:
        raise UserError(
            "the sweep is empty",
            found="no variant of any scenario",
            expected="at least one schedule, seed and prompt mask",
            do="name at least one of each",
        )
    for cell in cells:
        cell.scenario.check(checkpoint.transformer)
    return cells


def run_parity(
    run: ParityRun, cells: Sequence[Cell], progress: Callable[[Sequence[Cell]], Iterable[Cell]] = iter
) -> Summary:
    """Run every cell, write its dumps and comparison into its folder, and the summary when all are done.

    `progress` wraps the iteration over cells, as tqdm does.
    """
    started = time.perf_counter()
    with writing(run.out):
        (run.out / SUMMARY_NAME).unlink(missing_ok=True)
    # One each, also where both have the same name: an adapter drives one session at a time.
    reference, candidate = (_load(run, name, cells[0].scenario) for name in (run.reference, run.candidate))
    if run.teacher_forced:
        check_teachable(candidate.adapter.sites(), run.checkpoint.transformer.n_layers)
    truth = _truth(run)
    comparisons = {cell.name: _run_cell(run, cell, reference, candidate, truth) for cell in progress(cells)}
    summary = Summary(
        schema=SUMMARY_SCHEMA,
        reference=run.reference,
        candidate=run.candidate,
        numerics=run.numerics.to_json(),
        checkpoint=run.checkpoint.origin,
        checkpoint_digest=run.checkpoint.digest,
        seconds=time.perf_counter() - started,
        variants={name: free for name, (free, _) in comparisons.items()},
        teacher_forced={name: forced for name, (_, forced) in comparisons.items() if forced is not None},
    )
    with replacing(run.out / SUMMARY_NAME) as partial:
        partial.write_bytes(to_json(summary))
    return summary


def _load(run: ParityRun, name: str, scenario: Scenario) -> _Implementation:
    adapter = registry.load(name, run.checkpoint, run.numerics)
    config, allow = run.checkpoint.transformer, run.allow_observer_effect
    return _Implementation(name, adapter, check_observer(adapter, scenario, config, adapter.sites(), allow=allow))


def _truth(run: ParityRun) -> Adapter | None:
    """The reference in fp32, where the run is in a lower precision."""
    if not run.three_way or run.numerics.dtype == torch.float32:
        return None
    return registry.load(run.reference, run.checkpoint, replace(run.numerics, dtype=torch.float32))


def _run_cell(
    run: ParityRun, cell: Cell, reference: _Implementation, candidate: _Implementation, truth: Adapter | None
) -> tuple[Comparison, Comparison | None]:
    """The comparisons of the free-running session, which is dumped, and of the teacher-forced one, if asked for."""
    folder = run.out / cell.name

    def side(role: str, of: _Implementation) -> Side:
        manifest = describe_run(
            of.name, of.adapter, run.numerics, run.checkpoint, cell.scenario, cell.variant.name, observer=of.observer
        )
        return Side(of.name, of.adapter, DumpWriter(folder / role, manifest))

    sides = side("reference", reference), side("candidate", candidate)
    sigmas = cell.scenario.schedule(run.checkpoint.transformer).tolist()
    judgement = run.standards.judgement(sigmas, image=cell.scenario.image is not None)
    write_scenario(cell.scenario, folder / "scenario.safetensors")
    free = lockstep(*sides, run.checkpoint, cell.scenario, judgement, truth=truth)
    _write(free, folder / COMPARISON_NAME)
    if not run.teacher_forced:
        (folder / TEACHER_FORCED_NAME).unlink(missing_ok=True)
        return free, None
    undumped = Side(reference.name, reference.adapter), Side(candidate.name, candidate.adapter)
    forced = lockstep(*undumped, run.checkpoint, cell.scenario, judgement, teacher_forced=True)
    _write(forced, folder / TEACHER_FORCED_NAME)
    return free, forced


def _write(comparison: Comparison, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_bytes(to_json(comparison))
