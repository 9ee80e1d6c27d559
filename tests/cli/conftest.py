"""The command line as a user runs it: a process of its own, judged by its exit code and what it prints.

`script` starts the console script. `run` does what the script does in a process that is forked from one that has
imported torch already: most of these tests would else take their time for that import alone.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from waypoint_parity.harness.cli import main as cli
from waypoint_parity.harness.run.scenario import Scenario, write_scenario

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("waypoint-parity"))]
PARTS = re.compile(
    r"error: (?P<what>.+)\n  found:    (?P<found>.+)\n  expected: (?P<expected>.+)\n  do:       (?P<do>.+)\n"
)
# Seconds of a command: several times what the longest takes where nothing else runs.
LIMIT = 300
FORKS = multiprocessing.get_context("forkserver")
# pytest too: a fork imports the main module of its parent.
FORKS.set_forkserver_preload(["pytest", "tests.cli.preloaded"])


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | None
    out: str
    err: str


def script(*arguments: object, **settings: Any) -> Outcome:
    """The console script, from its start to its end; `settings` go to subprocess."""
    command = [*COMMAND, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT, **settings)
    return Outcome(found.returncode, found.stdout, found.stderr)


def start(folder: Path, *arguments: object) -> BaseProcess:
    """A command that runs beside the test and prints into the files `out` and `err` of `folder`."""
    process = FORKS.Process(target=_main, args=(list(map(str, arguments)), folder))
    process.start()
    return process


def _main(arguments: list[str], folder: Path) -> None:
    os.chdir(ROOT)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.exit(cli.main(arguments))


def run(*arguments: object, **settings: Any) -> Outcome:
    """A command from its start to its end; with `settings` it is the console script that runs."""
    if settings:
        return script(*arguments, **settings)
    with TemporaryDirectory() as folder:
        process = start(Path(folder), *arguments)
        process.join(timeout=LIMIT)
        process.kill()
        return Outcome(process.exitcode, (Path(folder) / "out").read_text(), (Path(folder) / "err").read_text())


def refused(*arguments: object, **settings: Any) -> dict[str, str]:
    """The four parts of the one message with which a command refuses its input."""
    outcome = run(*arguments, **settings)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    parts = PARTS.fullmatch(outcome.err)
    assert parts, outcome.err
    return parts.groupdict()


@pytest.fixture(scope="session")
def scenario_file(tiny_scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny scenario, as a file."""
    file = tmp_path_factory.mktemp("scenario") / "short.safetensors"
    write_scenario(tiny_scenario, file)
    return file


@pytest.fixture(scope="session")
def dumps(tiny_folder: Path, scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dumps `reference` and `candidate`; copy them before changing anything in them."""
    folder = tmp_path_factory.mktemp("dumps")
    for role, implementation in (("reference", "eager"), ("candidate", "candidate")):
        inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
        outcome = script("dump", implementation, *inputs, "--out", folder / role)
        assert outcome.code == 0, outcome
    return folder


@pytest.fixture
def checkpoint(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return shutil.copytree(tiny_folder, tmp_path / "checkpoint")


@pytest.fixture
def candidate(dumps: Path, tmp_path: Path) -> Path:
    """A copy of the candidate's dump that a test may break."""
    return shutil.copytree(dumps / "candidate", tmp_path / "candidate")


@pytest.fixture
def dump(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> Callable[..., tuple[object, ...]]:
    """The arguments of a dump of the tiny session, any of them replaced."""

    def arguments(implementation: str = "eager", *more: object, **replaced: object) -> tuple[object, ...]:
        given = {"checkpoint": tiny_folder, "scenario": scenario_file, "out": tmp_path / "out", **replaced}
        return ("dump", implementation, *(part for name in given for part in (f"--{name}", given[name])), *more)

    return arguments
