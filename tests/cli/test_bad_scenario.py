from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import refused
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.run.scenario import Scenario, write_scenario

PER_FRAME = ("noise", "button", "mouse", "scroll")
Dump = Callable[..., tuple[object, ...]]


def test_a_truncated_scenario_is_refused_by_file(dump: Dump, scenario_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    file.write_bytes(scenario_file.read_bytes()[:-10])
    assert refused(*dump(scenario=file))["what"] == f"{file}: cannot be read as a scenario"
    assert not (tmp_path / "out").exists()


def test_a_scenario_for_another_geometry_is_refused_with_both(dump: Dump, golden: Path, tmp_path: Path) -> None:
    parts = refused(*dump(scenario=golden / "base" / "scenario.safetensors"))
    assert parts["found"].startswith("noise [14, 1, 1, 4, 8, 8], button [14, 16]")
    assert parts["expected"].startswith("noise [14, 1, 1, 4, 2, 2], button [14, 4]")
    assert not (tmp_path / "out").exists()


def test_bad_input_leaves_an_earlier_dump_as_it_was(dump: Dump, candidate: Path, golden: Path) -> None:
    refused(*dump(scenario=golden / "base" / "scenario.safetensors", out=candidate))
    assert read_manifest(candidate).complete


def test_a_scenario_that_cannot_be_made_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    made = ("scenario", "make", "--checkpoint", tiny_folder, "--out", tmp_path / "made.safetensors")
    assert refused(*made, "--image", "pyproject.toml")["what"] == "pyproject.toml: cannot be read as a picture"
    parts = refused(*made, "--noise-policy", "pink")
    assert (parts["found"], parts["expected"]) == ("pink", "one of per-frame, global, sliced")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "found", "expected"),
    [
        (("--schedule", "four-step"), "four-step", "three-step"),
        (("--prompt-mask", "half"), "half", "unzeroed"),
        (("--noise-policy", "pink"), "pink", "sliced"),
        (("--vary", "seed=eleven"), "eleven", "a whole number"),
        (("--vary", "schedule=single-step", "guidance=2.0"), "guidance", "schedule, seed, mask, policy"),
        (("--vary", "schedule"), "schedule", "factor=level"),
        (("--vary", "=single-step"), "=single-step", "factor=level"),
        (("--vary", "schedule="), "schedule=", "factor=level"),
    ],
)
def test_a_sweep_over_what_there_is_not_is_refused_by_name(
    tiny_folder: Path, scenario_file: Path, tmp_path: Path, flags: tuple[str, ...], found: str, expected: str
) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "out")
    parts = refused("parity", *inputs, *flags)
    assert parts["found"] == found
    assert expected in parts["expected"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", ["guidance=2.0", "schedule"])
def test_a_noise_floor_over_what_there_is_not_is_refused_by_name(
    tiny_folder: Path, scenario_file: Path, tmp_path: Path, pair: str
) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "floor.json")
    assert refused("floor", *inputs, "--vary", pair)["found"] == pair.partition("=")[0]
    assert not (tmp_path / "floor.json").exists()


LONG = ("dump", "parity", "blame", "floor", "play", "make")


@pytest.mark.parametrize("command", LONG)
def test_a_session_longer_than_the_model_is_refused_before_it_begins(
    tiny_folder: Path, tiny_scenario: Scenario, tmp_path: Path, command: str
) -> None:
    long = {name: tiny_scenario[name][:1].repeat(65, *[1] * (tiny_scenario[name].ndim - 1)) for name in PER_FRAME}
    file, out = tmp_path / "long.safetensors", tmp_path / "out"
    write_scenario(replace(tiny_scenario.with_tensors(**long), units=65), file)
    given = ("--checkpoint", tiny_folder, *(("--frames", 65) if command == "make" else ("--scenario", file)))
    to = () if command == "play" else ("--out", out)
    verb = {"make": ("scenario", "make"), "dump": ("dump", "eager")}.get(command, (command,))
    parts = refused(*verb, *given, *to)
    assert "n_frames 64" in parts["expected"]
    assert not out.exists()


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
@pytest.mark.parametrize("command", ["parity", "blame", "floor", "make"])
def test_a_seed_beyond_64_bits_is_refused(
    tiny_folder: Path, scenario_file: Path, tmp_path: Path, command: str, seed: int
) -> None:
    verb = ("scenario", "make") if command == "make" else (command,)
    given = () if command == "make" else ("--scenario", scenario_file)
    flag = {"parity": "--seed", "floor": "--first-seed"}.get(command, "--seed")
    inputs = ("--checkpoint", tiny_folder, *given, "--out", tmp_path / "out")
    assert "64 bits" in refused(*verb, *inputs, f"{flag}={seed}")["expected"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sigmas", "found"),
    [("1.0,nan,0.0", "nan"), ("inf,0.0", "inf"), ("1.0,1.0,0.0", "1.0, 1.0"), ("1.0,0.5", "0.5"), ("1e39,0", "inf")],
)
def test_a_schedule_that_does_not_fall_to_zero_is_refused(
    tiny_folder: Path, scenario_file: Path, tmp_path: Path, sigmas: str, found: str
) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "out")
    assert found in refused("parity", *inputs, "--schedule", sigmas)["found"]


@pytest.mark.parametrize("command", ["parity", "floor", "blame"])
def test_a_scenario_without_frames_is_refused_whatever_would_be_drawn_for_it(
    tiny_folder: Path, tiny_scenario: Scenario, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "none.safetensors"
    write_scenario(
        replace(tiny_scenario.with_tensors(**{name: tiny_scenario[name][:0] for name in PER_FRAME}), units=0), file
    )
    inputs = ("--checkpoint", tiny_folder, "--scenario", file, "--out", tmp_path / "out")
    assert refused(command, *inputs)["found"] == "noise has no frames"
