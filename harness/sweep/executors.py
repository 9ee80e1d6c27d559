"""Where cells run: in this process, in several of this machine, or on a Dask cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import end_with_the_parent, keep_memory, worker_pool

# Opens an executor, again where the one before broke.
Opening = Callable[[], AbstractContextManager[Executor]]


class InProcess(Executor):
    """Runs what is submitted at once, in the process and thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run `fn`, and return its finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def in_process() -> AbstractContextManager[Executor]:
    """An executor that is this process."""
    return InProcess()


def processes(jobs: int) -> Opening:
    """`jobs` processes of this machine, none of which outlives this one."""
    return lambda: worker_pool(jobs, _settle)


def dask(address: str) -> Opening:
    """The workers of the Dask scheduler at `address`, which see the same files and can import the same modules.

    Raises UserError where the extra `dask` is not installed, and where nobody answers.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise UserError(
            "no cluster can be used",
            found=str(error),
            expected="the extra `dask`",
            do='pip install "waypoint-parity[dask]"',
        ) from error

    @contextmanager
    def connected() -> Iterator[Executor]:
        try:
            client = Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{address}: no scheduler answers",
                found=str(error) or type(error).__name__,
                expected="a Dask scheduler, such as tcp://host:8786",
                do="start one with `dask scheduler`, and workers with `dask worker`",
            ) from error
        with client:
            # Not pure: two runs of one cell are two runs. The scheduler gives a dead worker's tasks to another.
            yield client.get_executor(pure=False)

    return connected


def _settle() -> None:
    """What a process of the pool does first."""
    end_with_the_parent()
    keep_memory()
