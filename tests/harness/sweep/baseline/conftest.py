"""What the tests of baselines share: dumps of a few observations, and a parity run of two cells made of them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.observations import FAMILY, JUDGEMENT, SAME, key, normal, write_dump
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.table import VerdictTable
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, SUMMARY_SCHEMA, CellRun, Summary

INPUTS = {"noise": "n0", "button": "b0", "sigmas": "s0"}
SAYS = {"version": "0.1", "attention": "sdpa"}


def a_dump(folder: Path, scale: float = 1.0, **changes: Any) -> Path:
    """A dump of three sites, the last two `scale` times what they are to be; `changes` go to its manifest."""
    values = [("input.noise", 1.0), ("patchify", 1.0), ("latent", scale), ("velocity", scale)]
    seen = [(key(site), of * normal(8, 8, seed=at)) for at, (site, of) in enumerate(values)]
    return write_dump(folder, seen, **{"inputs": INPUTS, "description": SAYS, **changes})


def a_comparison(verdict: Verdict) -> Comparison:
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("patchify"), SAME)
    closed = table.close("eager", "candidate", evidence="tensors", expected=1, pictures=[])
    return msgspec.structs.replace(closed, verdict=verdict)


def a_run(folder: Path, scale: float = 1.0, cells: tuple[str, ...] = ("walk", "run"), **changes: Any) -> Path:
    """A finished parity run with these cells, the candidate's latents `scale` times what they are to be.

    `changes` go to its summary.
    """
    for cell in cells:
        a_dump(folder / "cells" / cell / "reference")
        a_dump(folder / "cells" / cell / "candidate", scale, implementation="candidate")
    verdict = Verdict.IDENTICAL if scale == 1 else Verdict.DIVERGED
    summary = Summary(
        schema=SUMMARY_SCHEMA,
        reference="eager",
        candidates=["candidate"],
        numerics={"dtype": "fp32"},
        family="waypoint",
        checkpoint="fixtures/golden/base",
        checkpoint_digest="c0ffee",
        seconds=1.0,
        cells={cell: CellRun(folder=f"cells/{cell}", digest="d", factors={}, seconds=0.5) for cell in cells},
        variants={cell: a_comparison(verdict) for cell in cells},
    )
    (folder / SUMMARY_NAME).write_bytes(to_json(msgspec.structs.replace(summary, **changes)))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "baselines"
