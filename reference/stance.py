"""Running code that compiles parts of itself: as it compiles them, or eagerly."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from waypoint_parity.reference.process_settings import preserved_settings


@contextmanager
def stance(*, compiled: bool) -> Iterator[None]:
    """While open, what was compiled runs `compiled` or eagerly; afterwards the process is as it was.

    Open it around a call, never across a pass boundary: it holds for the whole process, and so for the other side too.
    """
    with torch.compiler.set_stance("default" if compiled else "force_eager"), warnings.catch_warnings():
        # What eager flex_attention says of its speed.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        if not compiled:
            yield
            return
        with preserved_settings():  # the compiler leaves variables in the environment
            yield
