"""A process that a test starts beside itself: it takes Ctrl-C, and it does not outlive the test."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def beside(command: Sequence[str | Path], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """`command` in a process group of its own, as a terminal starts it; whatever is left of the group is killed."""
    with _interruptible():
        process = subprocess.Popen(command, text=True, start_new_session=True, **settings)
    # Leaving it waits for it, without a limit.
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _interruptible() -> Iterator[None]:
    # A background job of a script ignores SIGINT, and so does all that it starts. A handler is not inherited: what is
    # started meanwhile begins with the default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
