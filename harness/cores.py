"""How many processes can compute at once, and on how many threads each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
