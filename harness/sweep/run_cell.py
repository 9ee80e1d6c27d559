"""Running one cell: both implementations in lockstep; dumps, comparisons and investigation in the cell's folder."""

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from msgspec.structs import replace as replace_fields

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.contract import unlike_environments
from waypoint_parity.harness.compare.exact.shadow import Shadow
from waypoint_parity.harness.compare.exact.shadowed import Shadowed, is_followed, load_shadowed
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import EngineError
from waypoint_parity.harness.explain.investigation.investigate import investigate
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME
from waypoint_parity.harness.judge.comparison import COMPARISON_NAME, Comparison, Verdict, contradicted
from waypoint_parity.harness.judge.growth import MOST_PARAMETERS, growth
from waypoint_parity.harness.judge.judgement import AS_REFERENCE, SAME_MATHEMATICS, Judgement
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.on_purpose import differs_in_constants
from waypoint_parity.harness.judge.precision import LANES, PrecisionRun, precision_run
from waypoint_parity.harness.processes import computing_on
from waypoint_parity.harness.progress import working
from waypoint_parity.harness.record.observer import check_observer
from waypoint_parity.harness.record.records import read_manifest, to_json
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics, each_side
from waypoint_parity.harness.run.carried import Digests, carried_over, digests_shown, first_unlike
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.reads import listening
from waypoint_parity.harness.run.scenario import Scenario, write_scenario
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.teacher import check_teachable
from waypoint_parity.harness.sweep.cells import Cell
from waypoint_parity.harness.sweep.identity import Rules
from waypoint_parity.harness.sweep.loaded import loaded
from waypoint_parity.harness.sweep.store import CELL_SCHEMA, CellFile, Store, write_cell
from waypoint_parity.harness.sweep.summary import TEACHER_FORCED_NAME

GROWTH_NOT_ASKED = "whether the errors of the whole session are those that rounding grows to was not asked"
# Of units in which the candidate seems rough, so many are measured at once: the first ones show where it begins. And so
# often: what is left then is said.
MOST_ROUGHER, MOST_ROUNDS = 2, 2


@dataclass(frozen=True)
class CellTask:
    """A cell to be run wherever there is room: everything that a worker needs, by value."""

    cell: Cell
    rules: Rules
    checkpoint: Checkpoint
    out: Path
    digest: str
    identity: dict[str, str]

    @property
    def judgement(self) -> Judgement:
        """How its session is judged."""
        return self.cell.standards.judgement_of(self.cell.scenario, self.checkpoint)


@dataclass(frozen=True)
class _Implementation:
    """One of the two, loaded, and what its manifests say of the observer (see harness.record.observer)."""

    name: str
    adapter: Adapter
    numerics: Numerics
    observer: str
    # Under which it was built and runs, where both sides are followed exactly; and whether that shows exact values.
    shadowed: Shadowed | None = None
    is_followed: bool = False

    @property
    def shadow(self) -> Shadow | None:
        """Its exact shadow, where it has one."""
        return None if self.shadowed is None else self.shadowed.shadow


@dataclass(frozen=True)
class _Pair:
    """The two implementations of a cell; in a lower precision also the reference in fp32.

    `disturbed`: the reference once more, with disturbed lanes, where both are followed exactly.
    """

    reference: _Implementation
    candidate: _Implementation
    truth: Adapter | None
    disturbed: Shadowed | None
    # What outlives a session of either, and what the candidate changes of the reference, in words.
    contradictions: list[str]


def run_cell(task: CellTask) -> None:
    """Run the cell of `task` into the folder of its address; nothing where another sweep has made it by now.

    Raises UserError for what the user has to mend, and what an adapter raises.
    """
    store = Store(task.out)
    if store.reusable(task.digest) is not None:
        return
    store.remove(task.digest)
    started, seen = time.perf_counter(), loaded()
    apart = [task.out, *(path for weights in task.checkpoint.files.values() for path in weights.files)]
    seen.look(apart)
    making = store.making(task.cell.name, task.digest)
    with working(task.cell.name), computing_on(task.rules.threads), listening(), making as folder:
        write_scenario(task.cell.scenario, folder / "scenario.safetensors")
        pair = _loaded(task)
        seen.look(apart)
        comparison = _free(task, pair, folder)
        if task.rules.teacher_forced:
            _write(_forced(task, pair), folder / TEACHER_FORCED_NAME)
        found = investigate(
            folder, pair.reference.adapter, pair.candidate.adapter, task.checkpoint, task.cell.scenario, comparison
        )
        _write(found, folder / INVESTIGATION_NAME)
        seconds = time.perf_counter() - started
        seen.look(apart)
        write_cell(
            folder,
            CellFile(
                schema=CELL_SCHEMA,
                name=task.cell.name,
                digest=task.digest,
                identity=task.identity,
                loaded=seen.files(),
                seconds=seconds,
            ),
        )


def _free(task: CellTask, pair: _Pair, folder: Path) -> Comparison:
    """The free-running session of both, with their dumps."""
    cell, family = task.cell, task.checkpoint.family
    for of in (pair.reference, pair.candidate):
        if of.shadowed is not None:
            of.shadowed.expect(cell.scenario)
    # Kept as full tensors, which are small: what is decoded across.
    latents = family.sites.sites(Kind.LATENT)

    def side(role: str, of: _Implementation) -> Side:
        variant = cell.variant.name(family)
        manifest = describe_run(
            of.name, of.adapter, of.numerics, task.checkpoint, cell.scenario, variant, observer=of.observer
        )
        return Side(of.name, of.adapter, DumpWriter(folder / role, manifest, keep=latents), of.shadow)

    # What no exact shadow follows is also to have no errors beyond those that rounding grows to.
    # A port that is less precise on purpose has others.
    alone = pair.disturbed is not None and not pair.candidate.is_followed
    asked = alone and task.judgement.precision == AS_REFERENCE and _is_cheap(task.checkpoint)

    def compared(local: PrecisionRun | None, grows: Mapping[Key, float] | None) -> Comparison:
        sides = side("reference", pair.reference), side("candidate", pair.candidate)
        return lockstep(
            *sides, task.checkpoint, cell.scenario, task.judgement, truth=pair.truth, local=local, grows=grows
        )

    grows: Mapping[Key, float] | None = {} if asked else None
    sample = {sampled(cell.scenario)}
    local = _local(task, pair, sample)
    comparison = compared(local, grows)
    # Also where there is a reason to ask.
    for _ in range(MOST_ROUNDS):
        if (found := comparison.mathematics) is None or not found.rougher:
            break
        sample.update(found.rougher[:MOST_ROUGHER])
        local = _local(task, pair, sample)
        comparison = compared(local, grows)
    if comparison.verdict is Verdict.UNEXPLAINED and pair.disturbed is not None:
        # The reference's own error was one draw: more of them tell.
        comparison = compared(local, growth(pair.disturbed, cell.scenario))
    notes = unlike_environments(*(read_manifest(folder / role) for role in ("candidate", "reference")))
    notes += [GROWTH_NOT_ASKED] if alone and not asked else []
    if (found := comparison.mathematics) is not None and found.rougher:
        notes.append(f"precision was not measured in units that look rougher than those where it was: {found.rougher}")
    comparison = replace_fields(comparison, notes=[*comparison.notes, *notes])
    comparison = contradicted(_with_constants(comparison, task), pair.contradictions)
    _write(comparison, folder / COMPARISON_NAME)
    return comparison


def _is_cheap(checkpoint: Checkpoint) -> bool:
    """Whether free-running lanes of the model take minutes and not days."""
    stored = (each for files in checkpoint.files.values() for each in files.stored().values())
    return sum(each.parameters for each in stored) <= MOST_PARAMETERS


def sampled(scenario: Scenario) -> int:
    """The unit in which precision is measured: one, which is another one in another scenario."""
    return int(scenario.digest[:8], 16) % scenario.units


def _with_constants(comparison: Comparison, task: CellTask) -> Comparison:
    """`comparison`; where its mathematics differs first, also whether that is a matter of rounded constants."""
    found, first = comparison.mathematics, comparison.first
    if found is None or first is None or (first.exact or 0.0) <= SAME_MATHEMATICS:
        return comparison
    names = task.rules.reference, task.cell.candidate
    in_constants = task.cell.numerics.dtype is not torch.float32 and differs_in_constants(
        *names, task.checkpoint, task.cell.numerics, task.cell.scenario, first.key
    )
    return replace_fields(comparison, mathematics=replace_fields(found, in_constants=in_constants))


def _local(task: CellTask, pair: _Pair, units: Collection[int]) -> PrecisionRun | None:
    """What the candidate does by itself: in some units, or in all where no exact shadow follows it."""
    if pair.disturbed is None:
        return None
    everywhere = not pair.candidate.is_followed
    sessions = task.checkpoint, task.cell.scenario
    return precision_run(
        pair.disturbed,
        pair.candidate.adapter,
        *sessions,
        units,
        everywhere=everywhere,
        least=task.judgement.least,
    )


def _forced(task: CellTask, pair: _Pair) -> Comparison:
    """The session whose caches and latents follow the reference's; it is not dumped."""
    reference, candidate = (Side(of.name, of.adapter) for of in (pair.reference, pair.candidate))
    return lockstep(reference, candidate, task.checkpoint, task.cell.scenario, task.judgement, teacher_forced=True)


def _write(document: object, path: Path) -> None:
    path.write_bytes(to_json(document))


# An adapter drives one session at a time: each thread of a worker has its own. Loading a model takes longer than many
# sessions, so the last pair is kept for the next cell.
_kept = threading.local()


def _loaded(task: CellTask) -> _Pair:
    """The implementations of a cell, loaded now or for the cell before."""
    code = task.identity["reference source"], task.identity["candidate source"]
    key = (task.rules, task.cell.candidate, task.cell.numerics, task.checkpoint.digest, *code)
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.pair = None, None
        _kept.pair = _load(task)
        _kept.key = key
    pair: _Pair = _kept.pair
    return pair


def _load(task: CellTask) -> _Pair:
    checkpoint, rules, cell = task.checkpoint, task.rules, task.cell

    def load(name: str, numerics: Numerics, *, exact: bool) -> _Implementation:
        shadowed = load_shadowed(name, checkpoint, numerics) if exact else None
        adapter = registry.load(name, checkpoint, numerics) if shadowed is None else shadowed.adapter
        if shadowed is not None:
            shadowed.expect(cell.scenario)
        # What a model computes once and keeps, such as a table, its first session makes.
        with nullcontext() if shadowed is None else shadowed.shadow:
            allow = rules.allow_observer_effect
            observer = check_observer(adapter, cell.scenario, checkpoint, adapter.sites(), allow=allow)
        followed = shadowed is not None and is_followed(shadowed, cell.scenario)
        return _Implementation(name, adapter, numerics, observer, shadowed, followed)

    # One each, also where both have the same name. Under a shadow no code is compiled.
    expected, actual = each_side(cell.numerics, rules.compiled)
    reference = load(rules.reference, expected, exact=rules.exact)
    before = _shown_by_itself(task, reference)
    contradictions = _carried(task, reference, before)
    candidate = load(cell.candidate, actual, exact=rules.exact and not actual.compiled)
    contradictions += _carried(task, candidate, _shown_by_itself(task, candidate))
    # Where code is patched that both sides run, both would be wrong alike.
    if before is not None and (key := first_unlike(_shown_again(task, reference), before)) is not None:
        touched = f"{cell.candidate} changes what {rules.reference} computes in the same process, first at {key}"
        contradictions.append(touched)
    disturbed = load_shadowed(rules.reference, checkpoint, expected, lanes=LANES) if rules.exact else None
    if rules.teacher_forced:
        check_teachable(candidate.adapter.sites(), checkpoint.family.table(checkpoint.geometry, cell.scenario))
    truth = None
    if rules.three_way and cell.numerics.dtype != torch.float32:
        truth = registry.load(rules.reference, checkpoint, replace(expected, dtype=torch.float32))
    return _Pair(reference, candidate, truth, disturbed, contradictions)


def _shown_by_itself(task: CellTask, of: _Implementation) -> Digests | None:
    """What the first units show without another session; None where that cannot be held against anything."""
    # Of what is not deterministic nobody can tell, and what was recorded has one session.
    if task.rules.allow_observer_effect or getattr(of.adapter, "RECORDED", False):
        return None
    try:
        # What a shadow follows runs no other session: nothing of that may be taken for exact.
        if of.shadowed is not None:
            return _shown_again(task, of)
        return digests_shown(of.adapter, task.cell.scenario, task.checkpoint)
    except EngineError:
        # Whoever runs it next meets that too.
        return None


def _shown_again(task: CellTask, of: _Implementation) -> Digests:
    """What the first units of an implementation show that is loaded once more."""
    return digests_shown(_again(task, of), task.cell.scenario, task.checkpoint)


def _carried(task: CellTask, of: _Implementation, shown: Digests | None) -> list[str]:
    """What outlives a session of an implementation, in words."""
    if shown is None:
        return []
    found = carried_over(_again(task, of), shown, task.cell.scenario, task.checkpoint)
    return [] if found is None else [found]


def _again(task: CellTask, of: _Implementation) -> Adapter:
    return registry.load(of.name, task.checkpoint, of.numerics)
