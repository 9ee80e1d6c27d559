from collections.abc import Callable
from pathlib import Path

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
    assert not list(tmp_path.iterdir())


def test_a_sweep_over_an_unknown_schedule_is_refused(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "out")
    assert refused("parity", *inputs, "--schedules", "four-step")["found"] == "four-step"
    assert not (tmp_path / "out").exists()
