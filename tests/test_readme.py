"""What the README and the pages show is what is in the repository, and works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.scenario import write_scenario

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = ROOT / "fixtures" / "examples" / "my_port.py"
COMPONENT = ROOT / "fixtures" / "examples" / "my_vae.py"
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|^    .*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))) if "://" not in target]
    assert [target for target in targets if not (page.parent / target.partition("#")[0]).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT).as_posix()})" not in readme] == []


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("example", [EXAMPLE, COMPONENT], ids=lambda path: path.name)
def test_the_page_about_engines_shows_the_whole_example(example: Path) -> None:
    assert f"```python\n{example.read_text('utf-8')}```" in (ROOT / "docs" / "engine.md").read_text("utf-8")


def test_the_example_is_under_60_lines() -> None:
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("allowed", "status"), [(["--allow-missing", "*"], 0), ([], 1)])
def test_the_example_passes_with_what_it_maps_and_not_without_saying_so(
    allowed: list[str], status: int, tmp_path: Path
) -> None:
    base = ROOT / "fixtures/golden/base"
    scenario = make_scenario(open_checkpoint(base).geometry, name="two", units=2, seed=11)
    write_scenario(scenario, tmp_path / "two.safetensors")
    command = [sys.executable, "-m", "waypoint_parity", "parity", "--candidate", f"{EXAMPLE}:MyPort"]
    sweep = ["--schedule", "checkpoint", "--seed", "11", "--prompt-mask", "zeroed", "--threads", "1"]
    files = ["--checkpoint", base, "--scenario", tmp_path / "two.safetensors", "--out", tmp_path / "out"]
    finished = subprocess.run([*command, *sweep, *files, *allowed], capture_output=True, text=True, check=False)
    assert finished.returncode == status, finished.stderr


@pytest.mark.parametrize(
    "name",
    ["parity", "tests", "lint", "typing", "bench", "families", "floor", "scorecard", "clean_runs", "train_world"],
)
def test_every_session_is_there(name: str) -> None:
    assert f"\ndef {name}(session: nox.Session)" in (ROOT / "noxfile.py").read_text("utf-8")
