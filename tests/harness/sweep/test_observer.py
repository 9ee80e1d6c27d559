from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.harness.implementations import Shy
from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.observer import NO_EFFECT
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.parity import run_parity


@pytest.mark.parametrize("allow", [False, True])
def test_a_parity_run_looks_at_both_implementations(
    tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path, allow: bool
) -> None:
    cells = tiny_cells(tiny, short, fp32_on_cpu, implementations=(f"{Shy.__module__}:Shy",))
    run = tiny_run(tiny, tmp_path, allow_observer_effect=allow)
    with nullcontext() if allow else pytest.raises(UserError, match="recording changes what"):
        summary = run_parity(run, cells)
    if allow:
        folder = tmp_path / summary.cells[cells[0].name].folder
        found = {role: read_manifest(folder / role).observer for role in ("reference", "candidate")}
        assert found["reference"] == NO_EFFECT
        assert "elements differ" in str(found["candidate"])
