"""The play command as a user runs it: it says where its page is, and Ctrl-C ends it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cli.conftest import COMMAND, ROOT, refused
from tests.processes import beside

ENDLESS = "tests/harness/families/waypoint/play/implementations.py:Loading"


@contextmanager
def playing(
    tiny_folder: Path, scenario_file: Path, candidate: str = "eager"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the first word that it prints."""
    inputs = ["--checkpoint", str(tiny_folder), "--scenario", str(scenario_file), "--candidate", candidate]
    command = [*COMMAND, "play", *inputs]
    with beside(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[0]


def test_it_serves_its_page_until_it_is_interrupted(tiny_folder: Path, scenario_file: Path) -> None:
    with playing(tiny_folder, scenario_file) as (process, address):
        with urlopen(address, timeout=30) as page:
            text = page.read().decode()
        # The command hands it on to the process that serves: sent to both, it would ask that one twice.
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)
    assert process.returncode == 0
    assert printed == ("", "")
    assert address.startswith("http://127.0.0.1:")
    assert "eager" in text
    assert "Content-Security-Policy" in text


def test_its_players_do_not_outlive_it(tiny_folder: Path, scenario_file: Path) -> None:
    with playing(tiny_folder, scenario_file, ENDLESS) as (process, _):
        process.kill()
        # Ends when the last process that could print has ended.
        process.communicate(timeout=60)


def test_an_interrupt_while_it_loads_ends_it_too(tiny_folder: Path, scenario_file: Path) -> None:
    with playing(tiny_folder, scenario_file, ENDLESS) as (process, said):
        assert said == "loading"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130


def test_an_implementation_that_is_none_is_refused(tiny_folder: Path, scenario_file: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    assert refused("play", *inputs, "--candidate", "nothing.py:Nothing")["found"] == "no such file"


@pytest.mark.parametrize(
    ("option", "found"),
    [
        (("--buttons", "w=16"), "w=16"),
        (("--buttons", "w"), "w"),
        (("--turns", "a=left"), "a=left"),
        (("--buttons", "P=1"), "P=1"),
    ],
)
def test_a_key_without_a_meaning_is_refused(tiny_folder: Path, option: tuple[str, str], found: str) -> None:
    assert refused("play", "--checkpoint", tiny_folder, *option)["found"] == found
