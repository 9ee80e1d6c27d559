"""A process that works for another one, and is of no use without it."""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess


def end_with_the_parent() -> None:
    """End this process when its parent does: a worker that waits for work would not notice that it is gone."""
    threading.Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        # Not sys.exit, which would end this thread.
        os._exit(1)
