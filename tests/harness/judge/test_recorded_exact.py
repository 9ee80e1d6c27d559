"""What two dumps tell by the exact values that they carry: of each pair, and of the whole."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.harness.observations import key, manifest, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import MATHEMATICS, PRECISION, Comparison, Verdict
from waypoint_parity.harness.judge.diff import diff_dumps, open_dump
from waypoint_parity.harness.judge.judgement import FACTOR, FLOOR, PRECISIONS, Judgement, Tolerance
from waypoint_parity.harness.record.records import RECORDS_NAME, SKETCH_SIZE
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.taps import Observation

AT = key("transformer.blocks.1")
RIGHT = normal(64, seed=1).double()
OFF = normal(64, seed=2).double()
OFF *= RIGHT.norm() / OFF.norm()


def shown(off: float) -> Tensor:
    """A value so far from the exact one."""
    return (RIGHT + off * OFF).float()


def exact_dump(folder: Path, tensor: Tensor, exact: Tensor = RIGHT, spread: float | None = 1e-6) -> Path:
    """A dump of one observation with its exact value."""
    with DumpWriter(folder, manifest(expected=1)) as writer:
        writer.observe(Observation(AT, 1.0, tensor, exact, spread=spread))
        writer.followed(8, [])
    return folder


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return exact_dump(tmp_path / "reference", shown(1e-7))


def compared(reference: Path, candidate: Path, precision: str = "as-reference") -> Comparison:
    # Of tolerances nothing would pass.
    strict = Judgement(Tolerance(0.0, 0.0), precision=precision)
    found = diff_dumps(open_dump(reference), open_dump(candidate), strict)
    print(found.verdict, found.first, found.mathematics, found.precision)
    return found


def test_the_same_mathematics_and_an_error_of_rounding_pass(reference: Path, tmp_path: Path) -> None:
    found = compared(reference, exact_dump(tmp_path / "c", shown(3e-6)))
    assert found.verdict is Verdict.WITHIN_NOISE
    assert found.mathematics is not None
    assert (found.mathematics.observations, found.mathematics.worst) == (1, 0.0)
    assert found.precision is not None
    assert found.precision.worst == pytest.approx(3e-6 / (FACTOR * 1e-6), rel=0.05)
    assert (found.precision.lanes, found.precision.at) == (8, "transformer.blocks.1 in denoise step 0")


def test_other_mathematics_fails_though_the_values_are_equal(reference: Path, tmp_path: Path) -> None:
    found = compared(reference, exact_dump(tmp_path / "c", shown(1e-7), exact=RIGHT * (1 + 1e-9)))
    assert found.verdict is Verdict.DIVERGED
    assert found.question == MATHEMATICS


def test_an_error_beyond_what_rounding_explains_fails(reference: Path, tmp_path: Path) -> None:
    found = compared(reference, exact_dump(tmp_path / "c", shown(1e-4)))
    assert found.question == PRECISION
    assert compared(reference, exact_dump(tmp_path / "c", shown(1e-4)), "bf16")


def test_a_dump_without_exact_values_is_held_against_the_references(reference: Path, tmp_path: Path) -> None:
    assert compared(reference, write_dump(tmp_path / "c", [(AT, shown(3e-6))]))
    wrong = compared(reference, write_dump(tmp_path / "c", [(AT, shown(1e-4))]))
    assert wrong.verdict is Verdict.DIVERGED
    assert wrong.mathematics is None


def test_what_the_reference_itself_is_off_by_is_no_error(tmp_path: Path) -> None:
    reference = exact_dump(tmp_path / "r", shown(1e-3), spread=0.0)
    assert compared(reference, write_dump(tmp_path / "c", [(AT, shown(9e-4))]))


def test_less_than_two_units_of_fp32_are_no_error(tmp_path: Path) -> None:
    reference = exact_dump(tmp_path / "r", RIGHT.float(), spread=0.0)
    assert compared(reference, exact_dump(tmp_path / "c", shown(FACTOR * FLOOR / 2)))
    assert not compared(reference, exact_dump(tmp_path / "c", shown(FACTOR * FLOOR * 2)))
    assert PRECISIONS["as-reference"] == FLOOR


@pytest.mark.parametrize(
    "candidate",
    [shown(1e-7).view(8, 8), torch.full((64,), torch.nan), shown(1e-7).index_fill(0, torch.tensor(3), torch.inf)],
)
def test_another_shape_or_what_is_not_finite_is_never_right(candidate: Tensor, reference: Path, tmp_path: Path) -> None:
    assert compared(reference, write_dump(tmp_path / "c", [(AT, candidate)])).verdict is Verdict.DIVERGED


def test_without_a_spread_nothing_is_known(tmp_path: Path) -> None:
    reference = exact_dump(tmp_path / "r", shown(1e-7), spread=None)
    assert compared(reference, exact_dump(tmp_path / "c", shown(2e-7))).verdict is Verdict.DIVERGED


class TestContradictions:
    """What a record says of its exact value is believed only where it fits its values."""

    @staticmethod
    def changed(dump: Path, **exact: object) -> Path:
        (line,) = map(json.loads, (dump / RECORDS_NAME).read_text().splitlines())
        line["exact"] |= exact
        (dump / RECORDS_NAME).write_text(json.dumps(line) + "\n")
        return dump

    @pytest.mark.parametrize("side", ["reference", "candidate"])
    def test_a_distance_that_the_sketches_do_not_have_is_refused(
        self, side: str, reference: Path, tmp_path: Path
    ) -> None:
        wrong = exact_dump(tmp_path / "wrong", shown(1e-3))
        self.changed(wrong, distance=1e-7)
        dumps = (wrong, reference) if side == "reference" else (reference, wrong)
        with pytest.raises(UserError, match="its exact value is not that of the observation"):
            compared(*dumps)

    @pytest.mark.parametrize(
        "exact",
        [
            {"norm": 0.0},
            {"distance": -1.0},
            {"spread": -1e-6},
            {"spread": None},
            {"sketch": base64.b64encode(bytes(4 * 61)).decode()},
            {"sketch": "no base64"},
        ],
    )
    def test_what_is_no_exact_value_is_no_record(
        self, exact: dict[str, object], reference: Path, tmp_path: Path
    ) -> None:
        broken = self.changed(exact_dump(tmp_path / "c", shown(1e-7)), **exact)
        with pytest.raises(UserError, match=r"line 1: not a .*record"):
            compared(reference, broken)

    def test_a_sketch_that_is_not_finite_is_refused(self, reference: Path, tmp_path: Path) -> None:
        sketch = base64.b64encode(np.full(SKETCH_SIZE, np.nan).tobytes()).decode()
        with pytest.raises(UserError):
            compared(reference, self.changed(exact_dump(tmp_path / "c", shown(1e-7)), sketch=sketch))


def test_the_errors_that_would_have_been_caught_are_told(reference: Path, tmp_path: Path) -> None:
    found = compared(reference, exact_dump(tmp_path / "c", shown(3e-6)))
    assert found.precision is not None
    assert found.precision.caught == pytest.approx((FACTOR * 1e-6, FACTOR * 1e-6))
