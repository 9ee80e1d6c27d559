"""Sweeps of the tiny checkpoint, as the tests of the instrument run them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.judge.judgement import fixed_tolerance
from waypoint_parity.harness.judge.standards import Standards
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.cells import Cell, Conditions, plan
from waypoint_parity.harness.sweep.factors import Factors
from waypoint_parity.harness.sweep.identity import Rules
from waypoint_parity.harness.sweep.parity import ParityRun


def tiny_cells(
    checkpoint: Checkpoint,
    scenario: Scenario,
    numerics: Numerics,
    *,
    implementations: Sequence[str] = ("candidate",),
    **varied: Sequence[str],
) -> list[Cell]:
    """The cells of a sweep; without levels to be `varied` on `scenario` as recorded."""
    conditions = Conditions(numerics, Standards(fixed_tolerance(checkpoint.family, numerics.dtype_name)))
    cells = plan(checkpoint, Factors(implementations, varied), scenario, lambda dtype: conditions)
    return [replace(cell, command=("parity", "--candidate", cell.candidate, "--as-recorded")) for cell in cells]


def tiny_run(checkpoint: Checkpoint, out: Path, *, fresh: bool = False, blame: bool = False, **rules: Any) -> ParityRun:
    """A parity run in this process."""
    return ParityRun(checkpoint, Rules(**{"reference": "eager"} | rules), out, fresh=fresh, blame=blame)
