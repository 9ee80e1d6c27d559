"""A worker ends with the process that it works for, however that one ended."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import beside

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 30.0
# A pool whose worker has nothing to do: it says who it is, and waits.
PARENT = """
import multiprocessing, os, sys, time
from pathlib import Path
from concurrent.futures import ProcessPoolExecutor
{imports}

if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **{begin}) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""
WAYS = {
    "any": (
        "from waypoint_parity.harness.processes import end_with_the_parent",
        "dict(initializer=end_with_the_parent)",
    ),
    "diff": ("from waypoint_parity.harness.compare.join import _settle", "dict(initializer=_settle)"),
    "scorecard": (
        "from waypoint_parity.harness.explain.scorecard.score import _begin",
        "dict(initializer=_begin, initargs=('fixtures/faults/__init__.py:SUITE', Path(sys.argv[1])))",
    ),
}


def is_running(process: int) -> bool:
    """Whether a process is there, and not only its exit code for a parent that nobody is."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
@pytest.mark.parametrize("way", WAYS)
def test_an_idle_worker_ends_with_a_killed_parent(way: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(imports=WAYS[way][0], begin=WAYS[way][1]), "utf-8")
    with beside([sys.executable, script, tmp_path], stdout=subprocess.PIPE, cwd=ROOT) as it:
        assert it.stdout is not None
        worker = int(it.stdout.readline())
        assert is_running(worker)
        it.send_signal(signal.SIGKILL)
        end = time.monotonic() + MOST_SECONDS
        while is_running(worker) and time.monotonic() < end:
            time.sleep(0.05)
        assert not is_running(worker)
