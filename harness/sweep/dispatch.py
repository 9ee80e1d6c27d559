"""Tasks on an executor: as many at once as it is worth, and a worker that dies costs no more than its own task."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Generic, TypeVar

from waypoint_parity.harness.sweep.executors import Opening

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDiedError(RuntimeError):
    """The process that ran a task was gone before the task was done, alone as among others."""


def dispatched(
    tasks: Sequence[Task], work: Callable[[Task], Result], opening: Opening, *, at_once: int
) -> Iterator[tuple[Task, Result | Exception]]:
    """Every task with its result, or with what it raised, as they are done.

    Where a worker dies, every task that was being run is under suspicion; each is then run once more, alone.
    """
    pending = deque(tasks)
    while pending:
        suspects: list[Task] = []
        with opening() as executor:
            yield from _Shift(executor, work, at_once).run(pending, suspects)
        for task in suspects:
            with opening() as executor:
                alone: list[Task] = []
                yield from _Shift(executor, work, 1).run(deque([task]), alone)
                for culprit in alone:
                    yield culprit, WorkerDiedError("the process that ran it died, also when nothing else was running")


class _Shift(Generic[Task, Result]):
    """Works off tasks on one executor, until they are done or it breaks."""

    def __init__(self, executor: Executor, work: Callable[[Task], Result], at_once: int) -> None:
        self._executor = executor
        self._work = work
        self._at_once = at_once
        self._running: dict[Future[Result], Task] = {}

    def run(self, pending: "deque[Task]", suspects: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        """Take from `pending`; what was being run when the executor broke goes to `suspects`."""
        try:
            while not suspects and (pending or self._running):
                self._fill(pending, suspects)
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in done:
                    task, error = self._running.pop(future), future.exception()
                    if isinstance(error, BrokenExecutor):
                        suspects.append(task)
                    else:
                        yield task, error if isinstance(error, Exception) else future.result()
        finally:
            for future in self._running:
                future.cancel()
        suspects += self._running.values()

    def _fill(self, pending: "deque[Task]", suspects: list[Task]) -> None:
        while pending and len(self._running) < self._at_once:
            task = pending.popleft()
            try:
                self._running[self._executor.submit(self._work, task)] = task
            except BrokenExecutor:
                suspects.append(task)
                return
