"""Sweeps of the tiny checkpoint, as the tests of the instrument run them."""

from pathlib import Path
from typing import Any

from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.experiment.cells import Cell, Conditions, plan
from harness.experiment.factors import Factors
from harness.experiment.identity import Rules
from harness.judgement import fixed_tolerance
from harness.parity import ParityRun
from harness.scenario import Scenario
from harness.standards import Standards


def tiny_cells(checkpoint: Checkpoint, scenario: Scenario, numerics: Numerics, **factors: Any) -> list[Cell]:
    """The cells of a sweep; without `factors` the candidate on `scenario` as recorded."""
    levels = {"implementations": ("candidate",), "schedules": ("checkpoint",), "seeds": (None,), "masks": (None,)}
    conditions = Conditions(numerics, Standards(fixed_tolerance(numerics.dtype_name)))
    return plan(checkpoint, Factors(**{**levels, **factors}), scenario, lambda dtype: conditions)


def tiny_run(checkpoint: Checkpoint, out: Path, *, fresh: bool = False, blame: bool = False, **rules: Any) -> ParityRun:
    """A parity run in this process."""
    return ParityRun(checkpoint, Rules("eager", **rules), out, fresh=fresh, blame=blame)
