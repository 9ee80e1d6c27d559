"""Of the tests of the instrument: the first frame of the tiny scenario, alone and as a file."""

from pathlib import Path

import pytest

from waypoint_parity.harness.families.waypoint.scenario import of_frames
from waypoint_parity.harness.run.scenario import Scenario, write_scenario


@pytest.fixture(scope="session")
def short(tiny_scenario: Scenario) -> Scenario:
    """One frame of the tiny scenario."""
    return of_frames(tiny_scenario, [0])


@pytest.fixture(scope="session")
def scenario_file(short: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That frame, as a file."""
    file = tmp_path_factory.mktemp("scenario") / "short.safetensors"
    write_scenario(short, file)
    return file
