"""Where cells run. The cluster is a real one: a scheduler and two workers, processes of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import beside
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.sweep.dispatch import dispatched
from waypoint_parity.harness.sweep.executors import dask, in_process, processes

distributed = pytest.importorskip("distributed")
SLOW = 0.4


def slowly(task: int) -> tuple[int, int]:
    """The task, and the process that did it."""
    time.sleep(SLOW)
    return task, os.getpid()


@pytest.fixture
def cluster() -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        yield cluster.scheduler_address


def test_this_process_does_it_at_once() -> None:
    with in_process() as executor:
        assert executor.submit(os.getpid).result() == os.getpid()
        failed = executor.submit(int, "eleven")
        assert isinstance(failed.exception(), ValueError)


def test_processes_are_others() -> None:
    with processes(2)() as executor:
        assert executor.submit(os.getpid).result() != os.getpid()


def test_no_process_outlives_the_one_that_began_it(tmp_path: Path) -> None:
    script = tmp_path / "begins.py"
    script.write_text(
        "import os, time\n"
        "from waypoint_parity.harness.sweep.executors import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(1)() as executor:\n"
        "        print(executor.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    with beside([sys.executable, script], stdout=subprocess.PIPE, cwd=Path.cwd()) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        for _ in range(100):
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        pytest.fail("the worker goes on without its parent")


def test_a_cluster_whose_worker_is_killed_loses_nothing(cluster: str) -> None:
    tasks = list(range(8))
    killed = []
    done = dispatched(tasks, slowly, dask(cluster), at_once=len(tasks))
    outcomes = {}
    for task, outcome in done:
        outcomes[task] = outcome
        if not killed:
            assert isinstance(outcome, tuple)
            killed.append(outcome[1])
            os.kill(outcome[1], signal.SIGKILL)
    assert sorted(outcomes) == tasks
    assert all(isinstance(outcome, tuple) and outcome[0] == task for task, outcome in outcomes.items()), outcomes
    # What was done before it died is its own; the rest was done by the others.
    workers = [outcome[1] for outcome in outcomes.values() if isinstance(outcome, tuple)]
    assert workers.count(killed[0]) < len(tasks)
    assert len(set(workers)) >= 2


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    with pytest.raises(UserError, match="no scheduler answers") as error, dask("tcp://127.0.0.1:1")():
        pass
    assert error.value.what.startswith("tcp://127.0.0.1:1")


def test_any_executor_will_do() -> None:
    tasks = [1, 2, 3]
    assert len(list(dispatched(tasks, slowly, lambda: ThreadPoolExecutor(3), at_once=3))) == 3
