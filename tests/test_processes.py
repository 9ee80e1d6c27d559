"""What tests start beside themselves can be interrupted, and ends with them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.processes import beside

PROGRAM = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def _in_the_background() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


@pytest.mark.usefixtures("_in_the_background")
def test_a_process_takes_ctrl_c_also_where_the_tests_ignore_it() -> None:
    with beside([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]


def test_a_process_ends_with_a_test_that_fails() -> None:
    begun: list[subprocess.Popen[str]] = []

    def fails() -> None:
        with beside([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
            begun.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert begun[0].returncode == -signal.SIGKILL
