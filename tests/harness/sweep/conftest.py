"""What tests of sweeps share."""

import time

import pytest

from waypoint_parity.harness.run.reads import taken
from waypoint_parity.harness.sweep import loaded


@pytest.fixture(autouse=True)
def _as_if_begun_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process loaded, and removed since, is none of a cell's."""
    taken()
    fresh = loaded.Loaded()
    fresh.begin_anew(time.time())
    monkeypatch.setattr(loaded, "_loaded", [fresh])
