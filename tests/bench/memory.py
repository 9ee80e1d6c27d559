"""Peak memory of this process, from the Linux kernel's own count."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

PROCESS = Path("/proc/self")


def peak_growth(work: Callable[[], None]) -> int:
    """How many bytes the resident set grows above where it stood, at the most, while `work` runs."""
    # What was freed before is handed back first, or it would serve `work` without growth.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    PROCESS.joinpath("clear_refs").write_text("5")  # sets the peak back to the present size
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(line for line in PROCESS.joinpath("status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
