from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import refused
from waypoint_parity.harness.record.records import read_manifest

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
        (("--schedules", "four-step"), "four-step", "three-step"),
        (("--prompt-masks", "half"), "half", "unzeroed"),
        (("--noise-policies", "pink"), "pink", "sliced"),
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
