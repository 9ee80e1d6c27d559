import math
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from tests.harness.observations import key, normal, record, write_dump
from waypoint_parity.harness.compare.columns import ColumnReader, Columns, Places
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.record_error import record_error, record_errors, same_values
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.record.blocks import FilePart
from waypoint_parity.harness.record.records import RECORDS_NAME, Record

Measure = Callable[[Tensor, Tensor], Error]


@pytest.fixture
def by_records(tmp_path: Path) -> Measure:
    """The error between two tensors by the records that dumps have of them."""

    def measure(actual: Tensor, expected: Tensor) -> Error:
        return record_error(record(tmp_path / "actual", actual), record(tmp_path / "expected", expected))

    return measure


@pytest.fixture(params=["tensors", "records"])
def error(request: pytest.FixtureRequest, by_records: Measure) -> Measure:
    return tensor_error if request.param == "tensors" else by_records


def test_the_error_of_tensors_is_that_of_their_definitions() -> None:
    expected = normal(3, 5)
    actual = expected + 1e-2 * normal(3, 5, seed=1)
    found = tensor_error(actual, expected)
    a, b = actual.double(), expected.double()
    assert found.rel_l2 == pytest.approx(float((a - b).norm() / b.norm()))
    assert found.cosine == pytest.approx(float((a * b).sum() / a.norm() / b.norm()))
    assert found.norm_ratio == pytest.approx(float(a.norm() / b.norm()))
    assert found.max_abs == pytest.approx(float((a - b).abs().max()))
    assert not found.identical


def test_records_alone_tell_the_error_up_to_that_of_a_sketch(by_records: Measure) -> None:
    expected = normal(64, 256)
    actual = 1.01 * expected + 1e-2 * normal(64, 256, seed=1)
    exact, estimated = tensor_error(actual, expected), by_records(actual, expected)
    assert estimated.rel_l2 == pytest.approx(exact.rel_l2, rel=0.3)
    assert estimated.norm_ratio == pytest.approx(exact.norm_ratio, rel=1e-6)
    assert estimated.cosine == pytest.approx(exact.cosine, abs=1e-4)
    assert estimated.max_abs is None


def test_equal_tensors_are_identical(error: Measure) -> None:
    found = error(normal(7, 9), normal(7, 9))
    assert (found.identical, found.rel_l2, found.cosine, found.norm_ratio) == (True, 0.0, 1.0, 1.0)


def test_a_single_bit_ends_identity(error: Measure) -> None:
    expected = normal(1000)
    actual = expected.clone()
    actual[500] = torch.nextafter(actual[500], torch.tensor(9.0))
    found = error(actual, expected)
    assert not found.identical
    assert found.rel_l2 < 1e-6


def test_a_sign_of_zero_ends_identity_and_is_no_distance(error: Measure) -> None:
    found = error(-torch.zeros(4), torch.zeros(4))
    assert (found.identical, found.rel_l2) == (False, 0.0)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_the_same_special_values_in_the_same_places_are_identical(error: Measure, special: float) -> None:
    values = normal(100)
    values[::9] = special
    assert error(values.clone(), values).identical


def test_special_values_in_the_same_places_are_left_out_of_the_distance() -> None:
    expected = normal(100)
    actual = expected + 1e-3
    clean = tensor_error(actual[1:], expected[1:])
    expected[0] = actual[0] = math.nan
    found = tensor_error(actual, expected)
    assert (found.rel_l2, found.max_abs, found.note) == (pytest.approx(clean.rel_l2), clean.max_abs, None)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_a_special_value_on_one_side_leaves_no_distance(error: Measure, special: float) -> None:
    broken = normal(100)
    broken[3] = special
    found = error(broken, normal(100))
    assert found.rel_l2 == math.inf
    assert found.note is not None
    assert error(normal(100), broken).rel_l2 == math.inf


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_a_special_value_that_moved_leaves_no_distance(error: Measure, special: float, value: float) -> None:
    """Where the values that it changes places with are nothing, no sketch shows it."""
    before, after = torch.full((500,), value), torch.full((500,), value)
    before[3], after[4] = special, special
    assert math.isinf(error(after, before).rel_l2)


def test_records_do_not_tell_where_special_values_are(by_records: Measure) -> None:
    expected = normal(100)
    expected[0] = math.nan
    found = by_records(expected * (1 + 1e-6), expected)
    assert (found.identical, found.rel_l2) == (False, math.inf)
    assert found.note is not None
    assert found.note.startswith("NaN, +inf, -inf counts (1, 0, 0) on both sides")


def test_infinities_of_unlike_signs_leave_no_distance(error: Measure) -> None:
    assert error(torch.tensor([math.inf, 1.0]), torch.tensor([-math.inf, 1.0])).rel_l2 == math.inf


def test_other_shapes_have_no_distance_though_their_values_agree(error: Measure) -> None:
    found = error(torch.ones(2, 3), torch.ones(3, 2))
    assert (found.identical, found.rel_l2) == (False, math.inf)
    assert found.note == "shape [2, 3], not [3, 2]"


def test_the_same_values_in_another_dtype_are_the_same(error: Measure) -> None:
    values = normal(50).bfloat16()
    assert error(values, values.float()).identical
    assert not error(values, normal(50)).identical


def test_a_distance_from_zero_is_infinite_and_has_no_cosine(error: Measure) -> None:
    found = error(normal(10), torch.zeros(10))
    assert (found.rel_l2, found.cosine, found.norm_ratio) == (math.inf, None, None)


def test_the_opposite_has_the_opposite_cosine(error: Measure) -> None:
    assert error(-normal(4096), normal(4096)).cosine == pytest.approx(-1.0, abs=0.5)


def test_values_too_large_for_a_sketch_have_no_distance(by_records: Measure) -> None:
    huge = torch.full((100_000,), 3e38)
    assert by_records(huge, huge).identical
    assert by_records(huge, huge * 0.5).rel_l2 == math.inf


@pytest.mark.parametrize("tensor", [torch.empty(0, 3), torch.tensor(2.0), torch.ones(1, dtype=torch.bool)])
def test_tensors_of_any_size_and_kind_can_be_compared(error: Measure, tensor: Tensor) -> None:
    assert error(tensor.clone(), tensor).identical


def test_the_layout_in_memory_makes_no_difference() -> None:
    assert tensor_error(normal(4, 6).T.contiguous().T, normal(4, 6)).identical
    assert tensor_error(torch.ones(1).expand(6), torch.ones(6)).identical


def without_digest(found: Record) -> Record:
    return msgspec.structs.replace(found, digest=None)


def test_records_without_digests_are_the_same_where_all_they_hold_is(tmp_path: Path) -> None:
    first = without_digest(record(tmp_path / "a", normal(100)))
    again = without_digest(record(tmp_path / "b", normal(100)))
    other = without_digest(record(tmp_path / "c", normal(100).flip(0)))
    assert same_values(first, again)
    assert not same_values(first, other)


def columns_of(folder: Path, tensors: list[Tensor], reader: ColumnReader, *, digests: bool = True) -> Columns:
    """The records of a dump of `tensors`."""
    path = write_dump(folder, [(key("latent", unit), tensor) for unit, tensor in enumerate(tensors)]) / RECORDS_NAME
    if not digests:
        path.write_bytes(re.sub(rb',"digest":"\w+"', b"", path.read_bytes()))
    ((_, columns),) = reader.read(FilePart(path))
    return columns


@pytest.mark.parametrize("digests", [True, False])
def test_many_records_have_the_errors_that_they_have_one_by_one(tmp_path: Path, digests: bool) -> None:
    special = normal(40)
    special[3] = math.nan
    huge = torch.full((100_000,), 3e38)
    expected = [normal(64, 8), normal(9), normal(40), special, huge, torch.zeros(5), torch.empty(0), torch.tensor(2.0)]
    actual = [
        normal(64, 8) * 1.01,
        normal(9),
        special,
        special * 2,
        huge / 2,
        normal(5),
        torch.ones(1),
        torch.tensor(3),
    ]
    reader = ColumnReader(Places())
    left, right = (
        columns_of(tmp_path / at, side, reader, digests=digests) for at, side in (("a", actual), ("e", expected))
    )
    many = record_errors(left, right)
    for index in range(len(expected)):
        one = record_error(left.record(index), right.record(index))
        found = (many.identical[index], many.rel_l2[index], many.log_norm[index])
        assert found == (one.identical, pytest.approx(one.rel_l2), pytest.approx(one.log_norm, abs=1e-12))


def test_an_element_that_differs_is_told_by_its_values(error: Measure) -> None:
    assert error(torch.tensor([[3]]), torch.tensor([[2]])).values == (3.0, 2.0)
    assert error(normal(2), torch.zeros(2)).values is None
