"""A family of models that nothing outside this folder knows, through every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.toy import toy_family
from waypoint_parity.harness.explain.blame.result import BLAME_NAME, read_blame
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import write_scenario
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary

HERE = Path(__file__).parent
FAULTY = f"{HERE / 'toy_family.py'}:{{}}"


def command(*arguments: object, code: int = 0) -> str:
    """What a command prints that finds the family by its entry point, and ends with this exit code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))}
    words = [sys.executable, "-m", "waypoint_parity", *map(str, arguments)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == code, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options that name a checkpoint and a scenario of three clips."""
    folder = tmp_path_factory.mktemp("toy")
    scenario = folder / "walk.safetensors"
    write_inputs(folder, scenario)
    return ("--checkpoint", str(folder), "--scenario", str(scenario))


def write_inputs(folder: Path, scenario: Path) -> None:
    """Write a checkpoint with random weights into `folder`, and a scenario of three clips."""
    geometry, draw = toy_family.Geometry(), torch.Generator().manual_seed(0)
    shapes = toy_family.FAMILY.keys("net", geometry)
    weights = {key: torch.randn(shape, generator=draw) / shape[-1] ** 0.5 for key, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    (folder / "toy.json").write_text(json.dumps({}))
    save_file(weights, folder / "toy.safetensors")
    write_scenario(toy_family.FAMILY.make(geometry, name="walk", seed=1, units=3), scenario)


@pytest.fixture(scope="module")
def dumps(given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dump of either right implementation, and of one that forgets."""
    folder = tmp_path_factory.mktemp("dumps")
    names = {"toy": "toy", "batched": "toy-batched", "forgetful": FAULTY.format("Forgetful")}
    for name, implementation in names.items():
        command("dump", implementation, *given, "--out", folder / name)
    return {name: folder / name for name in names}


def test_two_branches_in_one_call_are_those_of_two_calls(dumps: dict[str, Path]) -> None:
    assert command("diff", dumps["toy"], dumps["batched"]).startswith("IDENTICAL")


def test_a_dump_keeps_every_picture_of_a_clip(dumps: dict[str, Path]) -> None:
    kept = sorted(path.name for path in (dumps["toy"] / "frames").iterdir())
    assert kept == [name for clip in range(3) for name in (f"{clip:06d}-0-1.png", f"{clip:06d}.png")]


def test_a_sampler_that_forgets_is_named_at_its_memory(dumps: dict[str, Path], tmp_path: Path) -> None:
    found = tmp_path / "comparison.json"
    command("diff", dumps["toy"], dumps["forgetful"], "--json", found, code=1)
    first = json.loads(found.read_text())["first"]
    assert (first["unit"], first["phase"], first["step"], first["site"]) == (0, "refine", 1, "memory")


def test_a_sweep_over_its_own_factor_finds_a_branch_that_is_wrong(given: tuple[str, ...], tmp_path: Path) -> None:
    candidates = ("toy-batched", FAULTY.format("OneBranch"))
    levels = ("--vary", "guidance=2.0", "guidance=5.0", "--jobs", "1")
    command("parity", "--reference", "toy", "--candidate", *candidates, *given, *levels, "--out", tmp_path, code=1)
    summary = read_summary(tmp_path / SUMMARY_NAME)
    assert [run.verdict for run in summary.variants.values()] == [Verdict.IDENTICAL] * 2 + [Verdict.DIVERGED] * 2
    firsts = [run.first.key for run in summary.variants.values() if run.first is not None]
    assert firsts == [Key(0, "refine", 0, "net.1", "without")] * 2
    assert all(len(run.pictures) == 2 * 3 for run in summary.variants.values())
    assert summary.born == "transformer"
    assert "net of block 1" in summary.causes[0]
    assert "net.1" in (tmp_path / "report.html").read_text()


def test_blame_finds_the_sampler_and_nothing_else(given: tuple[str, ...], tmp_path: Path) -> None:
    faulty = FAULTY.format("Forgetful")
    command("blame", "--reference", "toy", "--candidate", faulty, *given, "--out", tmp_path, code=1)
    blame = read_blame(tmp_path / BLAME_NAME)
    assert [cause.part for cause in blame.causes] == ["sampler"]
    assert blame.causes[0].first.site == "memory"
    assert blame.restored


def test_a_model_without_what_a_command_needs_is_told_so(dumps: dict[str, Path], given: tuple[str, ...]) -> None:
    command("ring", dumps["toy"], code=2)
    command("play", "--reference", "toy", "--candidate", "toy-batched", *given, code=2)
    command("parity", "--reference", "toy", "--candidate", "toy", *given, "--schedule", "single-step", code=2)
    command("floor", "--reference", "toy", *given, "--runs", "1", code=2)
    command("parity", "--reference", "toy", "--candidate", "toy", *given, "--teacher-forced", code=2)
    command("convert", given[1], "--to", "diffusers", "--out", f"{given[1]}-other", code=2)


def test_a_scenario_of_another_family_is_refused(given: tuple[str, ...], tmp_path: Path) -> None:
    walk = "fixtures/scenarios/walk.safetensors"
    command("dump", "toy", "--checkpoint", given[1], "--scenario", walk, "--out", tmp_path / "dump", code=2)
    command("blame", "--reference", "toy", "--candidate", "toy", *given[:2], "--scenario", walk, code=2)
    assert not list(tmp_path.iterdir())


def test_a_component_of_it_runs_alone(given: tuple[str, ...], tmp_path: Path) -> None:
    words = ("parity", "--reference", "toy", "--component", "net", *given, "--out", tmp_path, "--candidate")
    command(*words, "toy-batched")
    command(*words, FAULTY.format("OneBranch"), code=1)
    (found,) = (json.loads(file.read_bytes()) for file in tmp_path.glob("net.*.json"))
    wrong = [site["site"] for site in found["sites"] if site["verdict"] == "DIVERGED"]
    assert wrong == ["net.1@without"]
