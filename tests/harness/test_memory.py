"""Memory that is kept is not fetched from the system again: counted in page faults, in processes of their own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from waypoint_parity.harness.processes import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
for _ in range(20):
    torch.ones(10 << 20)  # 40 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    finished = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(finished.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc is left as it is")
def test_a_block_that_is_freed_is_used_again() -> None:
    # 10,240 pages of 4 KB each time; up to 32 MB glibc learns by itself, and forgets again.
    assert faults("give back") > 10 * 5_000
    assert faults("keep") < 500
