"""Running a suite: every trial by itself, in one of several processes."""

import fnmatch
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.card import CleanRow, FaultRow, Scorecard, StackedRow, scorecard
from waypoint_parity.harness.explain.scorecard.draws import draws
from waypoint_parity.harness.explain.scorecard.fault import Suite
from waypoint_parity.harness.explain.scorecard.suite import find_suite
from waypoint_parity.harness.explain.scorecard.trials import try_fault, try_harmless, try_stacked
from waypoint_parity.harness.processes import available_cores, end_with_the_parent, keep_memory, worker_pool


@dataclass(frozen=True)
class ScorecardPlan:
    """What is to be run of the suite called `suite`: names by glob, draws of stacked faults and their seed, sizes."""

    suite: str
    only: Sequence[str] = ("*",)
    stacked: int = 15
    seed: int = 0
    sizes: bool = True


@dataclass(frozen=True)
class Trial:
    """One trial, by its places in the suite: several faults at once, one fault, or a harmless change."""

    name: str
    faults: tuple[int, ...] = ()
    harmless: int | None = None
    sizes: bool = False


def score(plan: ScorecardPlan, *, jobs: int | None, announce: Callable[[str], None]) -> Scorecard:
    """Run every trial of a plan, `jobs` at once; `announce` is told the name of each that is done.

    Raises UserError for a suite that is none, and for a plan without trials.
    """
    started = time.perf_counter()
    planned = trials(plan, find_suite(plan.suite))
    outcomes: dict[Trial, FaultRow | StackedRow | CleanRow] = {}
    with (
        tempfile.TemporaryDirectory(prefix="scorecard-", ignore_cleanup_errors=True) as folder,
        worker_pool(jobs or available_cores(), _begin, plan.suite, Path(folder)) as pool,
    ):
        # The longest first: the others then fill the end.
        pending = {pool.submit(_run, trial): trial for trial in sorted(planned, key=_length, reverse=True)}
        for done in as_completed(pending):
            outcomes[pending[done]] = done.result()
            announce(pending[done].name)
    rows = [outcomes[trial] for trial in planned]
    return scorecard(
        [row for row in rows if isinstance(row, FaultRow)],
        [row for row in rows if isinstance(row, StackedRow)],
        [row for row in rows if isinstance(row, CleanRow)],
        seconds=time.perf_counter() - started,
    )


def trials(plan: ScorecardPlan, suite: Suite) -> list[Trial]:
    """The trials of a plan: faults, draws of several, harmless changes. Raises UserError where there are none."""
    chosen = [index for index, fault in enumerate(suite.faults) if _wanted(fault.name, plan.only)]
    clean = [index for index, harmless in enumerate(suite.harmless) if _wanted(harmless.name, plan.only)]
    if not chosen and not clean:
        raise UserError(
            f"{plan.suite}: nothing of it is to be run",
            found=f"--only {' '.join(plan.only)}",
            expected="globs of the names of its faults and harmless changes",
            do="correct --only",
        )
    places = {id(fault): index for index, fault in enumerate(suite.faults)}
    drawn = draws([suite.faults[index] for index in chosen], plan.stacked, plan.seed)
    return [
        *(Trial(suite.faults[index].name, faults=(index,), sizes=plan.sizes) for index in chosen),
        *(Trial(" + ".join(fault.name for fault in faults), _places(faults, places)) for faults in drawn),
        *(Trial(suite.harmless[index].name, harmless=index) for index in clean),
    ]


def _places(faults: Iterable[object], places: dict[int, int]) -> tuple[int, ...]:
    return tuple(places[id(fault)] for fault in faults)


def _wanted(name: str, globs: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _length(trial: Trial) -> int:
    return len(trial.faults) + trial.sizes


@dataclass(frozen=True)
class _Worker:
    """What one process keeps from trial to trial."""

    suite: Suite
    bench: Bench


_worker: list[_Worker] = []


def _begin(name: str, folder: Path) -> None:
    """Prepare this process, which keeps its files in `folder`. Each trial has one thread: every core has a process."""
    end_with_the_parent()
    keep_memory()
    torch.set_num_threads(1)
    own = folder / str(os.getpid())
    own.mkdir()
    suite = find_suite(name)
    _worker.append(_Worker(suite, Bench(suite, own)))


def _run(trial: Trial) -> FaultRow | StackedRow | CleanRow:
    """Make a trial in this process."""
    (worker,) = _worker
    suite, bench = worker.suite, worker.bench
    if trial.harmless is not None:
        return try_harmless(bench, suite.harmless[trial.harmless])
    faults = [suite.faults[index] for index in trial.faults]
    return try_stacked(bench, faults) if len(faults) > 1 else try_fault(bench, faults[0], sizes=trial.sizes)
