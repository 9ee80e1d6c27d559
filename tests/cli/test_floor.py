import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run, script
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import read_comparison
from waypoint_parity.harness.judge.noise_floor.document import floor_path, read_floor
from waypoint_parity.harness.run.scenario import write_scenario

# One frame under the checkpoint's schedule: what a floor needs at the least.
SHORT = ("--schedule", "checkpoint", "--prompt-mask", "zeroed", "--threads", 1)


@pytest.fixture(scope="module")
def scenario(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "one.safetensors"
    write_scenario(make_scenario(tiny.geometry, name="one", units=1, seed=1), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny_folder: Path, scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose noise floor the command has measured."""
    folder = tmp_path_factory.mktemp("measured") / "tiny"
    shutil.copytree(tiny_folder, folder)
    outcome = run("floor", "--checkpoint", folder, "--scenario", scenario, *SHORT, "--runs", 5)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(f"{floor_path(folder, 'fp32')}:\neager against itself, fp32, torch 2.13.0")
    assert "second process 0.0e+00" in outcome.out
    return folder


def test_the_floor_lies_where_a_parity_run_looks_for_it(checkpoint: Path, scenario: Path, tmp_path: Path) -> None:
    assert [session.units for session in read_floor(floor_path(checkpoint, "fp32")).sessions] == [1]
    sweep = ("--checkpoint", checkpoint, "--scenario", scenario, "--seed", 7, *SHORT)
    outcome = run("parity", *sweep, "--out", tmp_path / "out", "--false-alarm-rate", 0.01)
    assert outcome.code == 0, outcome
    (path,) = (tmp_path / "out").glob("cells/*/comparison.json")
    bounds = read_comparison(path).bounds
    assert (bounds["kind"], bounds["false-alarm rate of a run"]) == ("noise floor", 0.01)
    # The dumps that the run left name the checkpoint's folder, and are judged by the same floor.
    diff = script("diff", path.parent / "reference", path.parent / "candidate")
    assert diff.code == 0, diff
    assert "judged by:        noise floor" in diff.out


def test_a_floor_is_not_measured_on_a_handful_of_runs(tiny_folder: Path, scenario: Path, tmp_path: Path) -> None:
    floor = tmp_path / "floor.json"
    message = refused("floor", "--checkpoint", tiny_folder, "--scenario", scenario, *SHORT, "--runs", 4, "--out", floor)
    assert message["what"] == "too few runs for a noise floor"
    assert not floor.exists()


def test_a_floor_of_another_checkpoint_is_refused(checkpoint: Path, golden: Path) -> None:
    floor = floor_path(checkpoint, "fp32")
    inputs = ("--checkpoint", golden / "base", "--scenario", golden / "base" / "scenario.safetensors")
    message = refused("parity", *inputs, "--floor", floor)
    assert message["what"] == f"{floor}: is the noise floor of other runs"


def test_a_scenario_of_another_geometry_is_refused(tiny_folder: Path) -> None:
    """Without one it is a walk of the small world, whose prompt has another width."""
    assert refused("floor", "--checkpoint", tiny_folder)["found"]
