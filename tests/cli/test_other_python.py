"""A candidate in an interpreter of its own, named by --candidate-python."""

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, refused, run
from tests.harness.run import plain_engines
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.sweep.store import FAILED


@pytest.fixture
def parity(tiny_folder: Path, scenario_file: Path, tmp_path: Path):
    def parity(candidate: str, *options: object) -> Outcome:
        inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--as-recorded")
        sides = ("--candidate", candidate, "--candidate-python", sys.executable, "--no-exact", "--no-blame")
        return run("parity", *inputs, *sides, "--jobs", 1, "--out", tmp_path / "out", *options)

    return parity


def plain(engine: str) -> str:
    return f"{plain_engines.__file__}:{engine}"


def test_a_registered_candidate_is_right_there_too(parity) -> None:
    outcome = parity("candidate")
    assert outcome.code == 0, outcome
    assert "WITHIN_NOISE" in outcome.out


def test_an_engine_that_imports_nothing_of_ours_is_compared(parity) -> None:
    outcome = parity(plain("Doubling"))
    assert outcome.code == 1, outcome
    assert "velocity" in outcome.out


@pytest.mark.parametrize("engine", ["Killed", "Stopped", "Failing", "Gone"])
def test_an_engine_that_ends_ends_with_70_and_leaves_what_was_recorded(parity, engine: str, tmp_path: Path) -> None:
    # Only what is stopped is waited for; on a busy machine the others take longer than that to begin.
    assert parity(plain(engine), "--side-timeout", 3 if engine == "Stopped" else 120).code == 70
    if engine == "Failing":
        (kept,) = (tmp_path / "out" / FAILED).iterdir()
        manifest = read_manifest(kept / "candidate", unfinished=True)
        assert not manifest.complete
        assert manifest.observed > 0


def test_what_is_no_interpreter_is_refused(tiny_folder: Path, scenario_file: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    parts = refused("blame", *inputs, "--candidate-python", "/no/such/python")
    assert parts["what"].startswith("/no/such/python")
