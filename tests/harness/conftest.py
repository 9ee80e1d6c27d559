"""Of the tests of the instrument: the first frame of the tiny scenario, alone and as a file."""

import dataclasses
from pathlib import Path

import pytest

from waypoint_parity.harness.run.scenario import Scenario, write_scenario


@pytest.fixture(scope="session")
def short(tiny_scenario: Scenario) -> Scenario:
    """One frame of the tiny scenario."""
    names = ("noise", "button", "mouse", "scroll")
    return dataclasses.replace(tiny_scenario, **{name: getattr(tiny_scenario, name)[:1] for name in names})


@pytest.fixture(scope="session")
def scenario_file(short: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That frame, as a file."""
    file = tmp_path_factory.mktemp("scenario") / "short.safetensors"
    write_scenario(short, file)
    return file
