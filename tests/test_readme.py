"""What the README shows is what is in the repository, and works."""

import subprocess
import sys
from pathlib import Path

import pytest

from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.scenario import write_scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLE = ROOT / "fixtures" / "examples" / "my_port.py"


def test_the_readme_shows_the_whole_example() -> None:
    assert f"```python\n{EXAMPLE.read_text('utf-8')}```" in README


def test_the_example_is_under_60_lines() -> None:
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60


@pytest.mark.parametrize(("allowed", "status"), [(["--allow-missing", "*"], 0), ([], 1)])
def test_the_example_passes_with_what_it_maps_and_not_without_saying_so(
    allowed: list[str], status: int, tmp_path: Path
) -> None:
    base = ROOT / "fixtures/golden/base"
    scenario = make_scenario(open_checkpoint(base).geometry, name="two", units=2, seed=11)
    write_scenario(scenario, tmp_path / "two.safetensors")
    command = [sys.executable, "-m", "waypoint_parity", "parity", "--candidate", f"{EXAMPLE}:MyPort"]
    sweep = ["--schedules", "checkpoint", "--seeds", "11", "--prompt-masks", "zeroed", "--threads", "1"]
    files = ["--checkpoint", base, "--scenario", tmp_path / "two.safetensors", "--out", tmp_path / "out"]
    finished = subprocess.run([*command, *sweep, *files, *allowed], capture_output=True, text=True, check=False)
    assert finished.returncode == status, finished.stderr


@pytest.mark.parametrize(
    "name",
    ["parity", "tests", "lint", "typing", "bench", "official", "floor", "scorecard", "clean_runs", "train_world"],
)
def test_every_session_is_there(name: str) -> None:
    assert f"\ndef {name}(session: nox.Session)" in (ROOT / "noxfile.py").read_text("utf-8")
