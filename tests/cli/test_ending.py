"""How commands end: asked to by a signal, and where what they print cannot be written."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, ROOT
from tests.harness.test_parent import is_running
from tests.processes import beside

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
# The bound; a machine that does other things beside is given more.
MOST_SECONDS = 2.0 if "CI" not in os.environ else 10.0
# Engines that say where they are, and then stay there.
ENGINES = """
import time, torch
from waypoint_parity.reference.eager.adapter import EagerAdapter

class Stays(EagerAdapter):
    def session(self, scenario):
        for at in super().session(scenario):
            if at[0] == 1:
                (FOLDER / str(time.monotonic_ns())).touch()
                self.stay()
            yield at

class InC(Stays):
    def stay(self):
        torch.linalg.svd(torch.randn(6000, 6000, dtype=torch.float64))

class WithoutThreads(Stays):
    def stay(self):
        sum(range(10**12))

class CatchesAll(Stays):
    def stay(self):
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass
"""
EVERY_COMMAND = ["", *re.findall(r'subcommand\("(\w+)"\)', (ROOT / "harness/cli/main.py").read_text("utf-8"))]


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A file with the engines above; every one of their sessions leaves a file in the folder `there`."""
    (tmp_path / "there").mkdir()
    file = tmp_path / "engines.py"
    file.write_text(f"from pathlib import Path\nFOLDER = Path({str(tmp_path / 'there')!r})\n{ENGINES}")
    return file


@pytest.fixture
def inputs(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> tuple[object, ...]:
    swept = ("--schedule", "single-step", "--prompt-mask", "zeroed", "--seed", 1, 2, "--no-blame", "--no-exact")
    return ("--checkpoint", tiny_folder, "--scenario", scenario_file, *swept, "--out", tmp_path / "out")


@contextmanager
def begun(*words: object) -> Iterator["subprocess.Popen[str]"]:
    command = [*COMMAND, *map(str, words)]
    with beside(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        yield process


def of_group(leader: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text("ascii", "replace").rpartition(")")[2].split()[3])
        except OSError:
            continue
        if session == leader and is_running(int(stat.parent.name)):
            found.append(int(stat.parent.name))
    return found


def wait_until(it: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not it():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(process: "subprocess.Popen[str]", number: int) -> int:
    """Its exit code after a signal to it alone; asserts that it and all that it began are gone in time."""
    asked = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    took = time.monotonic() - asked
    wait_until(lambda: not of_group(process.pid))
    assert "Traceback" not in out + err
    assert took < MOST_SECONDS, (took, err)
    return process.returncode


@pytest.mark.parametrize(
    ("engine", "jobs"),
    [
        ("InC", 2),
        pytest.param("InC", 1, marks=pytest.mark.slow),
        pytest.param("CatchesAll", 1, marks=pytest.mark.slow),
        pytest.param("CatchesAll", 2, marks=pytest.mark.slow),
        pytest.param("WithoutThreads", 2, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_to_the_parent_alone_ends_a_sweep_whatever_its_engines_are_at(
    inputs: tuple[object, ...], engines: Path, tmp_path: Path, engine: str, jobs: int
) -> None:
    with begun("parity", "--candidate", f"{engines}:{engine}", *inputs, "--jobs", jobs) as process:
        wait_until(lambda: len(list((tmp_path / "there").iterdir())) == jobs)
        assert ended(process, signal.SIGINT) == 128 + signal.SIGINT


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_sweep_ends_while_its_workers_begin(inputs: tuple[object, ...], number: int, processes: int) -> None:
    with begun("parity", *inputs, "--jobs", 2) as process:
        wait_until(lambda: len(of_group(process.pid)) >= processes)
        assert ended(process, number) == 128 + number


def test_cells_that_were_finished_stay(inputs: tuple[object, ...], engines: Path, tmp_path: Path) -> None:
    candidates = ("--candidate", "eager", f"{engines}:InC")
    with begun("parity", *candidates, *inputs, "--jobs", 1) as process:
        wait_until(lambda: any((tmp_path / "there").iterdir()))
        assert ended(process, signal.SIGINT) == 128 + signal.SIGINT
    finished = sorted(path.parent for path in (tmp_path / "out" / "cells").glob("*/cell.json"))
    assert len(finished) == 2
    made = [(folder / "cell.json").stat().st_mtime_ns for folder in finished]
    with begun("parity", "--candidate", "eager", *inputs, "--jobs", 1) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    assert [(folder / "cell.json").stat().st_mtime_ns for folder in finished] == made


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [3, 4])
def test_a_scorecard_ends(number: int, processes: int) -> None:
    with begun("scorecard", "--suite", "tests/harness/explain/scorecard/suites.py:FEW", "--jobs", 2) as process:
        wait_until(lambda: len(of_group(process.pid)) >= processes)
        assert ended(process, number) == 128 + number


@pytest.mark.slow
def test_begun_where_ctrl_c_is_ignored_it_ignores_it_and_ends_by_sigterm(
    inputs: tuple[object, ...], engines: Path, tmp_path: Path
) -> None:
    words = ["parity", "--candidate", f"{engines}:InC", *inputs, "--jobs", 1]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, *map(str, words)]
    with beside(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_until(lambda: any((tmp_path / "there").iterdir()))
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2 * MOST_SECONDS)
        assert ended(process, signal.SIGTERM) == 128 + signal.SIGTERM


def printing(words: str, dumps: Path) -> str:
    return words.replace("REFERENCE", str(dumps / "reference")).replace("CANDIDATE", str(dumps / "candidate"))


PRINTING = [
    ("diff CANDIDATE REFERENCE --tolerance 1", 0),
    ("diff CANDIDATE REFERENCE --tolerance 1e-12", 1),
    ("diff CANDIDATE nowhere", 2),
    ("diff CANDIDATE REFERENCE --tolerance 1 --json /dev/stdout", 0),
    ("ring CANDIDATE", 0),
    ("info", 0),
    ("--help", 0),
    ("parity --help", 0),
    ("parity --nonsense", 2),
]
SHELL = " ".join(COMMAND)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("words", "code"), PRINTING)
@pytest.mark.parametrize("streams", ["2>errors | true", "2>&1 | true", ">&- 2>&-"])
def test_nobody_reads_what_is_printed(dumps: Path, tmp_path: Path, words: str, code: int, streams: str) -> None:
    """Silent, and the verdict is the one that it is."""
    (tmp_path / "errors").touch()
    command, _, rest = f"{SHELL} {printing(words, dumps)} {streams}".partition(" | ")
    script = f"{{ {command}; echo $? >code; }}" + (f" | {rest}" if rest else "")
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert shell.stdout + shell.stderr == ""
    assert int((tmp_path / "code").read_text()) == code
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert code == 2 or errors == ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("words", "code"), PRINTING)
def test_a_full_disk_under_what_is_printed_is_told(dumps: Path, tmp_path: Path, words: str, code: int) -> None:
    command = [*COMMAND, *printing(words, dumps).split()]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60)
    assert ended.returncode == (code or 2), ended
    assert "Traceback" not in ended.stderr
    assert ended.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize("columns", ["1", "2", "3", "0", "-5", "abc", "", "10", "39", "41", "100000"])
def test_help_ends_at_any_width(columns: str) -> None:
    for command in EVERY_COMMAND if columns == "1" else ["", "parity"]:
        limited = ["bash", "-c", f"ulimit -v 8000000; {SHELL} {command} --help"]
        ended = subprocess.run(
            limited, capture_output=True, text=True, timeout=30, env=os.environ | {"COLUMNS": columns}
        )
        assert ended.returncode == 0, (command, ended)
        assert "--help" in ended.stdout
