"""The parity run: reference against candidate over every variant of its scenarios."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness import registry
from harness.adapter import Adapter, Numerics
from harness.checkpoint import Checkpoint
from harness.comparison import COMPARISON_NAME, Comparison, Verdict
from harness.dump import DumpWriter, describe_run
from harness.errors import UserError
from harness.judgement import Judgement
from harness.lockstep import Side, lockstep
from harness.records import to_json
from harness.scenario import Scenario, write_scenario
from harness.storage import replacing, writing
from harness.variant import Variant

SUMMARY_SCHEMA = "waypoint-parity/summary/1"
SUMMARY_NAME = "summary.json"
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
    judgement: Judgement
    out: Path


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A finished parity run. True where parity holds in every variant."""

    schema: str
    reference: str
    candidate: str
    numerics: dict[str, str]
    checkpoint: str
    checkpoint_digest: str
    seconds: float
    variants: dict[str, Comparison]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any variant."""
        return max((comparison.verdict for comparison in self.variants.values()), key=_SEVERITY.index)

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
    reference, candidate = (
        registry.load(name, run.checkpoint, run.numerics) for name in (run.reference, run.candidate)
    )
    comparisons = {cell.name: _run_cell(run, cell, reference, candidate) for cell in progress(cells)}
    summary = Summary(
        schema=SUMMARY_SCHEMA,
        reference=run.reference,
        candidate=run.candidate,
        numerics=run.numerics.to_json(),
        checkpoint=run.checkpoint.origin,
        checkpoint_digest=run.checkpoint.digest,
        seconds=time.perf_counter() - started,
        variants=comparisons,
    )
    with replacing(run.out / SUMMARY_NAME) as partial:
        partial.write_bytes(to_json(summary))
    return summary


def _run_cell(run: ParityRun, cell: Cell, reference: Adapter, candidate: Adapter) -> Comparison:
    folder = run.out / cell.name

    def side(role: str, name: str, adapter: Adapter) -> Side:
        manifest = describe_run(name, adapter, run.numerics, run.checkpoint, cell.scenario, cell.variant.name)
        return Side(name, adapter, DumpWriter(folder / role, manifest))

    sides = side("reference", run.reference, reference), side("candidate", run.candidate, candidate)
    write_scenario(cell.scenario, folder / "scenario.safetensors")
    comparison = lockstep(*sides, run.checkpoint, cell.scenario, run.judgement)
    with replacing(folder / COMPARISON_NAME) as partial:
        partial.write_bytes(to_json(comparison))
    return comparison
