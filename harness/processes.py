"""Processes: how many can compute at once, the memory that they keep, and that a worker ends with its parent."""

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess


class Interrupted(KeyboardInterrupt):
    """The user interrupts; an implementation may raise a KeyboardInterrupt of its own."""


def available_cores() -> int:
    """The cores that this process may use, where the system tells; else all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Torch computes on so many threads until the context ends; a number of the whole process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Parameters of glibc's mallopt (malloc.h): from which size on free memory is given back, how many blocks may be mapped
# from the system one by one, in how many arenas threads allocate.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = (1 << 31) - 1


def keep_memory() -> None:
    """Have the C library keep what is freed, as long as this process lives; for whoever owns the process to call.

    glibc returns every large block to the system when it is freed, and the system hands it out again page by page,
    zeroed. Kept, a frame of the small world is decoded in 0.15 s instead of 0.22 (glibc 2.36, one thread). Another C
    library is left as it is.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(parameter, value)


def end_with_the_parent() -> None:
    """End this process when its parent does: a worker that waits for work would not notice that it is gone."""
    threading.Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        # Not sys.exit, which would end this thread.
        os._exit(1)
