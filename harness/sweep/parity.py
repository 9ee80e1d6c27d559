"""The parity run: a sweep of cells, each reference against candidate, and what they say together."""

import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import FourPartError, UserError
from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.judge.comparison import COMPARISON_NAME, read_comparison
from waypoint_parity.harness.progress import silent
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.cells import Cell
from waypoint_parity.harness.sweep.culprit import find_culprit
from waypoint_parity.harness.sweep.dispatch import WorkerDiedError, dispatched
from waypoint_parity.harness.sweep.effects import effects
from waypoint_parity.harness.sweep.executors import Opening, in_process
from waypoint_parity.harness.sweep.identity import Rules, address, identity
from waypoint_parity.harness.sweep.loaded import loaded
from waypoint_parity.harness.sweep.run_cell import CellTask, run_cell
from waypoint_parity.harness.sweep.store import Store, read_cell
from waypoint_parity.harness.sweep.summary import (
    SUMMARY_NAME,
    SUMMARY_SCHEMA,
    TEACHER_FORCED_NAME,
    CellFailure,
    CellRun,
    Summary,
    read_summary,
)


@dataclass(frozen=True)
class ParityRun:
    """What a parity run is to do: everything that its cells share."""

    checkpoint: Checkpoint
    rules: Rules
    out: Path
    opening: Opening = in_process
    # Cells that are given to the executor at a time.
    at_once: int = 1
    # Run cells again that have been made already.
    fresh: bool = False
    # Search the causes of the first cell that diverges.
    blame: bool = False


def run_parity(run: ParityRun, cells: Sequence[Cell], announce: Callable[[str], None] = silent) -> Summary:
    """Run every cell that has not been made, and write the summary of all.

    `announce` is told the name of every cell that is done. A cell that fails is told in the summary and stops no other;
    raises UserError where all of them fail for the same reason of the user's.
    """
    started = time.perf_counter()
    store = Store(run.out.resolve())
    with writing(store.out):
        store.out.mkdir(parents=True, exist_ok=True)
        (store.out / SUMMARY_NAME).unlink(missing_ok=True)
    store.clear()
    # Before an engine is loaded.
    loaded().look()
    tasks = {cell.name: _task(run, store, cell) for cell in cells}
    missing = _missing(run, store, tasks.values(), announce)
    failed = _run_all(run, missing, announce)
    store.clear()
    _raise_if_hopeless(tasks, failed)
    summary = _summary(run, store, tasks, failed, tasks.keys() - {task.cell.name for task in missing})
    if run.blame:
        summary = find_culprit(summary, store, tasks, announce)
    summary = msgspec.structs.replace(summary, seconds=time.perf_counter() - started)
    with replacing(store.out / SUMMARY_NAME) as partial:
        partial.write_bytes(to_json(summary))
    # As it is on disk, where names of files are spelt so that any document can hold them.
    return read_summary(store.out / SUMMARY_NAME)


def _task(run: ParityRun, store: Store, cell: Cell) -> CellTask:
    described = identity(run.rules, run.checkpoint, cell)
    return CellTask(cell, run.rules, run.checkpoint, store.out, address(described), described)


def _missing(
    run: ParityRun, store: Store, tasks: Iterable[CellTask], announce: Callable[[str], None]
) -> list[CellTask]:
    """The tasks whose cells are not there, or were run with other code: that of an engine has changed since."""
    missing = []
    for task in tasks:
        if not run.fresh and store.reusable(task.digest) is not None:
            announce(task.cell.name)
            continue
        store.remove(task.digest)
        missing.append(task)
    return missing


def _run_all(run: ParityRun, missing: Sequence[CellTask], announce: Callable[[str], None]) -> dict[str, Exception]:
    """Run these tasks; returns what failed, by the cell's name."""
    failed = {}
    for task, error in dispatched(missing, run_cell, run.opening, at_once=run.at_once):
        if error is not None:
            failed[task.cell.name] = error
        announce(task.cell.name)
    return failed


def _raise_if_hopeless(tasks: Mapping[str, CellTask], failed: Mapping[str, Exception]) -> None:
    """Raise the one reason of the user's for which no cell could be run."""
    first = next(iter(failed.values()), None)
    if isinstance(first, UserError) and len(failed) == len(tasks) and len({str(each) for each in failed.values()}) == 1:
        raise first


def _summary(
    run: ParityRun,
    store: Store,
    tasks: Mapping[str, CellTask],
    failed: Mapping[str, Exception],
    reused: Collection[str],
) -> Summary:
    variants, forced, runs = {}, {}, {}
    for name, task in tasks.items():
        if name in failed:
            continue
        folder = store.made(task.digest)
        variants[name] = read_comparison(folder / COMPARISON_NAME)
        if run.rules.teacher_forced:
            forced[name] = read_comparison(folder / TEACHER_FORCED_NAME)
        runs[name] = CellRun(
            folder=folder.relative_to(store.out).as_posix(),
            digest=task.digest,
            factors=task.cell.factors,
            seconds=read_cell(folder).seconds,
            reused=name in reused,
            command=list(task.cell.command),
        )
    numerics = [task.cell.numerics.to_json() for task in tasks.values()]
    summary = Summary(
        schema=SUMMARY_SCHEMA,
        reference=run.rules.reference,
        candidates=list(dict.fromkeys(task.cell.candidate for task in tasks.values())),
        numerics={key: ", ".join(dict.fromkeys(each[key] for each in numerics)) for key in numerics[0]}
        | {"compiled": ", ".join(run.rules.compiled) or "false"},
        family=run.checkpoint.family.name,
        checkpoint=run.checkpoint.origin,
        checkpoint_digest=run.checkpoint.digest,
        seconds=0.0,
        cells=runs,
        variants=variants,
        teacher_forced=forced,
        failures=[_failure(store, tasks[name], error) for name, error in failed.items()],
    )
    failing = [name for name in runs if not summary.verdict_of(name).passes]
    return msgspec.structs.replace(summary, effects=effects(runs, variants, failing, run.checkpoint.family))


def _failure(store: Store, task: CellTask, error: Exception) -> CellFailure:
    told = isinstance(error, FourPartError | WorkerDiedError)
    kept = store.failed(task.cell.name)
    return CellFailure(
        name=task.cell.name,
        factors=task.cell.factors,
        message=str(error) or type(error).__name__,
        mistake=isinstance(error, UserError),
        traceback=None if told else "".join(traceback.format_exception(error)),
        kept=kept.relative_to(store.out).as_posix() if kept.is_dir() else None,
        command=list(task.cell.command),
    )
