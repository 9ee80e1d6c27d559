"""Summaries for the tests of documents: cells with comparisons of a few sites, as a table closes them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tests.harness.observations import FAMILY, JUDGEMENT, SAME, key, off_by
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.judge.comparison import Comparison, Mathematics, Precision
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.judge.table import VerdictTable, incomparable
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.sweep.summary import SUMMARY_SCHEMA, CellRun, Summary

PICTURES = [
    PictureMetrics(at=PictureAt(0), ssim=1.0, mean_abs=0.0, max_abs=0, psnr=None, rel_l2=0.0),
    PictureMetrics(at=PictureAt(1), ssim=0.9991, mean_abs=0.25, max_abs=3, psnr=41.5, rel_l2=5e-4),
]
UNFIT = incomparable("eager", "candidate", "input.noise differs", bounds=JUDGEMENT.bounds, evidence="tensors")


def comparison(error: float, pictures: list[PictureMetrics] = PICTURES) -> Comparison:
    """Of a `patchify` that is equal, and of a block's output at unit 4 with this relative L2 error."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("patchify"), SAME)
    table.pair(1, key("transformer.blocks.2", unit=4), off_by(error))
    return table.close("eager", "candidate", evidence="tensors", expected=2, pictures=pictures)


def answered(exact: float, local: float, *, first: float = 0.0, gains: list[str] | None = None) -> Comparison:
    """The same of a block that is off by 4e-5, with these errors; `patchify` differs by `first` of exact values."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("patchify"), Error(identical=False, rel_l2=1e-7, exact=first, local=0.5))
    table.pair(1, key("transformer.blocks.2", unit=4), Error(identical=False, rel_l2=4e-5, exact=exact, local=local))
    closed = table.close("eager", "candidate", evidence="tensors", expected=2, pictures=PICTURES)
    mathematics = Mathematics(observations=2, worst=max(exact, first), bound=SAME_MATHEMATICS)
    precision = Precision(
        units=[4], observations=2, lanes=4, worst=max(local, 0.5), at="u4/denoise0/transformer.blocks.2",
        reference=0.5, gains=gains or [],
    )  # fmt: skip
    return msgspec.structs.replace(closed, mathematics=mathematics, precision=precision)


def summary_of(variants: Mapping[str, Comparison], **changes: Any) -> Summary:
    """A summary of cells with these comparisons; `changes` are its other fields."""
    cells = {
        name: CellRun(folder=f"cells/{number}", digest=f"{number:064d}", factors={"seed": name[-2:]}, seconds=1.5)
        for number, name in enumerate(variants)
    }
    values: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "reference": "eager",
        "candidates": ["candidate"],
        "numerics": {"dtype": "fp32", "device": "cpu", "compiled": "false"},
        "family": FAMILY.name,
        "checkpoint": "fixtures/golden/base",
        "checkpoint_digest": "0123456789abcdef",
        "seconds": 61.4,
        "cells": cells,
        "variants": dict(variants),
    }
    return Summary(**values | changes)
