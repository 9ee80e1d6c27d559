import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.sweep.dispatch import WorkerDiedError, dispatched
from waypoint_parity.harness.sweep.executors import in_process, processes


def squared(task: int) -> int:
    if task < 0:
        raise UserError("no square", found=str(task), expected="0 or more", do="take another")
    return task * task


def squared_or_killed(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return squared(task)


def killed_once(task: Path) -> str:
    """Dies the first time that it is given a task."""
    if not task.exists():
        task.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task.name


def in_work(task: Path) -> int:
    """How many are being run while it is."""
    marker = task / str(time.monotonic_ns())
    marker.touch()
    time.sleep(0.05)
    working = len(list(task.iterdir()))
    marker.unlink()
    return working


@pytest.mark.parametrize("opening", [in_process, processes(2), lambda: ThreadPoolExecutor(2)])
def test_every_task_has_its_result_or_its_error(opening) -> None:  # type: ignore[no-untyped-def]
    outcomes = dict(dispatched([1, -2, 3, 4], squared, opening, at_once=2))
    assert isinstance(outcomes.pop(-2), UserError)
    assert outcomes == {1: 1, 3: 9, 4: 16}


def test_a_worker_that_dies_costs_its_own_task_only() -> None:
    outcomes = dict(dispatched([1, 2, 3, 4, 5], squared_or_killed, processes(2), at_once=2))
    assert isinstance(outcomes.pop(3), WorkerDiedError)
    assert outcomes == {1: 1, 2: 4, 4: 16, 5: 25}


def test_a_task_whose_worker_died_is_run_once_more(tmp_path: Path) -> None:
    assert list(dispatched([tmp_path / "task"], killed_once, processes(1), at_once=1)) == [(tmp_path / "task", "task")]


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_are_handed_over_than_asked_for(tmp_path: Path, at_once: int) -> None:
    outcomes = dispatched([tmp_path] * 9, in_work, lambda: ThreadPoolExecutor(9), at_once=at_once)
    assert max(int(str(count)) for _, count in outcomes) == at_once


def test_nothing_is_begun_before_it_is_asked_for() -> None:
    assert list(dispatched([], squared, in_process, at_once=1)) == []
    outcomes = dispatched([1, 2], squared, in_process, at_once=1)
    assert next(outcomes) == (1, 1)
    outcomes.close()  # type: ignore[attr-defined]
