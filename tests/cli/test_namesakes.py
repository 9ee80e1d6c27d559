"""Commands in a project that has packages of its own named as our folders are, and first on the path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Outcome
from waypoint_parity.harness.record.records import read_manifest

OURS = ("harness", "reference", "candidate", "reports", "fixtures")
# An adapter of a user, beside a package of the user's: of both packages called `reference` it gets the right one.
ADAPTER = """
from reference.notes import VERSION
from waypoint_parity.reference.eager.adapter import EagerAdapter

class Mine(EagerAdapter):
    def describe(self):
        return super().describe() | {"version": VERSION}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose packages called as ours raise when they are imported, all but its `reference`."""
    folder = tmp_path_factory.mktemp("project")
    for name in OURS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of the user')\n")
    (folder / "reference" / "__init__.py").write_text("")
    (folder / "reference" / "notes.py").write_text("VERSION = 'of the user'\n")
    (folder / "port.py").write_text(ADAPTER)
    return folder


def command(project: Path, *arguments: object, start: list[str] = COMMAND) -> Outcome:
    """A command in the project, which comes first on the path of modules."""
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    words, env = [*start, *map(str, arguments)], os.environ | {"PYTHONPATH": path}
    ended = subprocess.run(words, capture_output=True, text=True, cwd=project, env=env, timeout=120)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def test_commands_find_their_own_parts(project: Path, tiny_folder: Path, scenario_file: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    one = ("--schedule", "single-step", "--seed", 1, 2, "--prompt-mask", "zeroed", "--no-blame")
    for words in (
        ("info",),
        ("dump", "eager", *inputs, "--out", "eager"),
        ("diff", "eager", "eager"),
        # Two cells, each in a process of its own.
        ("parity", *inputs, *one, "--jobs", 2, "--out", "parity"),
        ("report", "parity"),
    ):
        outcome = command(project, *words)
        assert outcome.code == 0, (words, outcome)
    assert "WITHIN_NOISE: candidate against eager" in (project / "parity" / "report.md").read_text()


def test_the_module_finds_its_own_parts(project: Path) -> None:
    outcome = command(project, "--help", start=[sys.executable, "-m", "waypoint_parity"])
    assert outcome.code == 0, outcome
    assert "parity" in outcome.out


@pytest.mark.parametrize("adapter", ["port.py:Mine", "port:Mine"])
def test_an_adapter_of_a_user_gets_the_users_packages(
    project: Path, tiny_folder: Path, scenario_file: Path, adapter: str, tmp_path: Path
) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "dump")
    outcome = command(project, "dump", adapter, *inputs)
    assert outcome.code == 0, outcome
    assert read_manifest(tmp_path / "dump").implementation == adapter
    assert read_manifest(tmp_path / "dump").description["version"] == "of the user"
