import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.conftest import ROOT, run, script
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.cli.main import GROUPS, parse
from waypoint_parity.harness.judge.comparison import read_comparison
from waypoint_parity.harness.judge.diff import diff
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.record.records import read_manifest, read_records
from waypoint_parity.harness.run.scenario import Scenario, read_scenario

COMMANDS = [
    *(
        ["quick"],
        ["report"],
        ["play"],
        ["blame"],
        ["import"],
        ["convert"],
        ["scorecard"],
        ["baseline"],
        ["baseline", "accept"],
        ["scenario"],
    ),
    *(["dump"], ["diff"], ["frames"], ["parity"], ["floor"], ["ring"], ["info"]),
    *(["scenario", "make"], ["scenario", "show"], ["sites"], ["worker"], ["check-dump"], ["schema"]),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_shows_an_example(command: list[str]) -> None:
    outcome = script(*command, "--help")
    assert outcome.code == 0
    assert f"Example: waypoint-parity {' '.join(command)}" in " ".join(outcome.out.split())


def test_the_first_screen_has_a_line_for_every_command() -> None:
    outcome = script("--help")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(named) == sorted(name for group in GROUPS.values() for name in group)
    assert {command[0] for command in COMMANDS} <= {*named}


def test_a_command_is_needed() -> None:
    outcome = script()
    assert outcome.code == 2
    assert outcome.out == ""
    assert "parity" in outcome.err


@pytest.mark.parametrize("command", ["parity", "blame"])
def test_an_option_has_the_same_names_in_every_command(command: str) -> None:
    one = parse([command, "--schedule", "single-step", "--seed", "3", "--prompt-mask", "zeroed"])
    assert parse([command, "--schedules", "single-step", "--seeds", "3", "--prompt-masks", "zeroed"]) == one


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands(shell: str) -> None:
    outcome = script("--tyro-print-completion", shell)
    assert outcome.code == 0, outcome
    assert "check-dump" in outcome.out


def test_the_module_is_the_same_command_as_the_console_script() -> None:
    command = [sys.executable, "-m", "waypoint_parity", "--help"]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout == script("--help").out


def test_parsing_imports_nothing_that_takes_long() -> None:
    check = "import sys; from waypoint_parity.harness.cli.main import parse; parse(['info']); print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"dask", "matplotlib", "numpy", "pandas", "scipy", "torch"}.isdisjoint(imported.stdout.split())


def test_info_lists_the_registered_implementations() -> None:
    names = [line.split()[0] for line in script("info").out.splitlines()]
    assert {"candidate", "eager"} <= set(names)
    assert names == sorted(names)


def test_info_describes_a_checkpoint(tiny_folder: Path, tiny: Checkpoint) -> None:
    outcome = run("info", tiny_folder)
    assert outcome.code == 0, outcome
    assert tiny.digest in outcome.out
    assert (
        "3 layers of width 64, 2 query and 1 key/value heads of width 32, 4 tokens a frame, latent 4 x 2 x 2"
        in outcome.out
    )
    assert "0: 4/2, 1: 2/1, 2: 4/2" in outcome.out


def test_a_scenario_is_made_and_shown(tiny_folder: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    file, image = tmp_path / "made.safetensors", tmp_path / "seed.png"
    Image.new("RGB", (32, 18), (10, 20, 30)).save(image)
    made = run(
        "scenario", "make", "--checkpoint", tiny_folder, "--out", file, "--frames", 3, "--seed", 7,
        "--noise-policy", "sliced", "--controls", "idle", "--prompt-tokens", 5, "--prompt-padding", 1, "--image", image,
    )  # fmt: skip
    assert made.code == 0
    shown = run("scenario", "show", file)
    assert (shown.code, shown.out) == (0, made.out)
    scenario = read_scenario(file)
    tiny.family.check(scenario, tiny.geometry)
    assert (scenario.name, scenario.units, scenario.seed) == ("made", 3, 7)
    assert scenario.labels["noise_policy"] == "sliced"
    assert scenario.digest in shown.out


def test_a_scenario_without_wishes_is_that_of_the_defaults(golden: Path, tmp_path: Path) -> None:
    make = ("scenario", "make", "--checkpoint", golden / "base", "--frames", 2, "--seed", 3, "--out")
    spelt_out = (
        "--noise-policy", "per-frame", "--controls", "random", "--prompt-tokens", 16, "--prompt-padding", 4
    )  # fmt: skip
    for name, wishes in (("none", ()), ("all", spelt_out)):
        assert run(*make, tmp_path / name, *wishes).code == 0
    made = read_scenario(tmp_path / "none")
    assert made.digest == read_scenario(tmp_path / "all").digest
    # Processors without AVX2 round normal noise differently.
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert made.digest == "3d98c3f33c2099a65d1acbf2e3ae78634eb90d0ace31725b9a33db0212d761fa"


def test_a_rendered_scenario_says_which_frames_are_the_true_ones() -> None:
    shown = run("scenario", "show", "fixtures/scenarios/left.safetensors")
    assert "true frames      walk 2000034 of the small world" in shown.out


def test_a_dump_is_whole_and_identified(dumps: Path, tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    for role, implementation in (("reference", "eager"), ("candidate", "candidate")):
        manifest = read_manifest(dumps / role)
        assert (manifest.implementation, manifest.numerics["dtype"]) == (implementation, "fp32")
        assert (manifest.checkpoint_digest, manifest.scenario_digest) == (tiny.digest, tiny_scenario.digest)
        assert manifest.observed == manifest.expected == sum(1 for _ in read_records(dumps / role))
        assert [path.name for path in sorted((dumps / role / "frames").iterdir())] == ["000000.png", "000001.png"]


def test_a_clean_diff_ends_with_0_and_writes_what_it_found(dumps: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    outcome = script("diff", dumps / "reference", dumps / "candidate", "--json", tmp_path / "diff.json")
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("WITHIN_NOISE: candidate against eager\n")
    judgement = Judgement(fixed_tolerance(tiny.family, "fp32", reason="the checkpoint has no noise floor"))
    assert read_comparison(tmp_path / "diff.json") == diff(dumps / "reference", dumps / "candidate", judgement)


def test_json_on_standard_output_stands_there_alone(dumps: Path, tiny_folder: Path) -> None:
    for command in (("diff", dumps / "reference", dumps / "candidate"), ("info", tiny_folder)):
        outcome = run(*command, "--json", "-")
        assert outcome.code == 0
        assert json.loads(outcome.out)


def test_the_sites_of_a_model_are_listed_as_a_run_shows_them(tiny_folder: Path, dumps: Path) -> None:
    listed = json.loads(run("sites", tiny_folder, "--json", "-").out)
    names = [row["name"] for row in listed if "image" not in row["phases"]]
    shown = dict.fromkeys(record.site for record in read_records(dumps / "reference"))
    assert set(shown) <= {row["name"] for row in listed}
    assert {row["name"] for row in listed if not row["optional"] and row["name"] in names} <= set(shown)
    assert [line.split()[0] for line in run("sites", tiny_folder).out.splitlines()] == [row["name"] for row in listed]


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").out == f"waypoint-parity {version('waypoint-parity')}\n"


def test_a_divergence_ends_with_1_and_is_named(dumps: Path) -> None:
    outcome = run("diff", dumps / "reference", dumps / "candidate", "--tolerance", 1e-12)
    assert outcome.code == 1
    comparison = diff(dumps / "reference", dumps / "candidate")
    first = next(rung for rung in comparison.sites if rung.rel_l2)
    assert f"first divergence: {first.site} at unit" in outcome.out


def test_the_rings_of_a_dump_are_printed(dumps: Path) -> None:
    outcome = run("ring", dumps / "candidate", "--layer", 1)
    assert outcome.code == 0, outcome
    head, frames, *rows = [line.split() for line in outcome.out.splitlines()]
    assert " ".join(head) == "local layer 1: 2 slots for every frame"
    assert frames == ["frame", "0", "1", "tail", "evicted"]
    assert rows[:2] == [["0", "*0", ".", "0"], ["1", "0", "*1", "1"]]
