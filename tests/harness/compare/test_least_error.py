import math
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.harness.observations import normal, record
from waypoint_parity.harness.compare.least_error import least_error
from waypoint_parity.harness.compare.record_error import record_error
from waypoint_parity.harness.record.records import Record
from waypoint_parity.harness.record.statistics import summarise

STATISTICS = ("mean", "std", "min", "max", "absmean", "rms")


def bare(tensor: Tensor, *names: str, **changes: object) -> Record:
    """The record of a tool that wrote some statistics of a tensor, and nothing else."""
    summary = summarise(tensor)
    told = {name: getattr(summary, name) if name in (names or STATISTICS) else None for name in STATISTICS}
    values = {"unit": 0, "phase": "denoise", "step": 0, "site": "x", "call": 0, "sigma": None} | told
    counts = {name: getattr(summary, name) for name in ("nan", "posinf", "neginf")}
    return msgspec.convert(values | counts | {"shape": list(tensor.shape), "dtype": "float32"} | changes, Record)


def rel_l2(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 10), width=st.integers(1, 300))
def test_no_more_is_proven_than_there_is(seed: int, scale: float, width: int) -> None:
    expected = normal(width, seed=seed)
    actual = expected + scale * normal(width, seed=seed + 1)
    assert least_error(bare(actual), bare(expected)).rel_l2 <= rel_l2(actual, expected) * (1 + 1e-5)


def test_a_scale_is_proven_whole() -> None:
    x = normal(64)
    error = least_error(bare(1.01 * x), bare(x))
    assert error.rel_l2 == pytest.approx(0.01, rel=1e-4)
    assert error.by_statistics_of == 64


def test_a_permutation_is_not_seen() -> None:
    x = normal(64)
    assert least_error(bare(x.flip(0)), bare(x)).rel_l2 < 1e-6 < rel_l2(x.flip(0), x)


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_proves_something_where_the_norm_is_known(name: str) -> None:
    expected = normal(64)
    proven = least_error(bare(3 * expected + 1, name), bare(expected, name, "rms"))
    assert 0.1 < proven.rel_l2 <= rel_l2(3 * expected + 1, expected)


def test_without_a_norm_the_bound_is_of_magnitudes() -> None:
    x = normal(64)
    assert least_error(bare(1.01 * x, "absmean"), bare(x, "absmean")).rel_l2 == pytest.approx(0.01, rel=1e-4)
    assert 0 < least_error(bare(1.01 * x, "min", "max"), bare(x, "min", "max")).rel_l2 <= 0.0101


def test_without_a_shape_the_norm_is_compared_all_the_same() -> None:
    x = normal(64)
    assert least_error(bare(1.01 * x, shape=None), bare(x)).rel_l2 == pytest.approx(0.01, rel=1e-4)


def test_statistics_that_nobody_shares_prove_nothing() -> None:
    x = normal(64)
    error = least_error(bare(x, "absmean"), bare(x, "max"))
    assert math.isnan(error.rel_l2)
    assert error.note is not None


def test_what_the_statistics_may_be_off_by_is_taken_off() -> None:
    """A mean that was summed in bf16 is off by its unit of the values, not of itself."""
    x = normal(64)
    rounded = bare(x, resolution=2.0**-8)
    moved = msgspec.structs.replace(rounded, rms=(rounded.rms or 0) * 1.003, mean=(rounded.mean or 0) + 0.003)
    assert least_error(moved, bare(x)).rel_l2 == 0
    assert least_error(bare(1.02 * x, resolution=2.0**-8), bare(x)).rel_l2 == pytest.approx(0.02 - 2.0**-8, rel=0.05)


def test_other_shapes_and_what_is_not_finite_on_one_side_have_no_distance() -> None:
    x, broken = normal(8), normal(8)
    broken[3] = math.nan
    assert least_error(bare(x), bare(x.view(2, 4))).rel_l2 == math.inf
    assert least_error(bare(broken), bare(x)).rel_l2 == math.inf
    assert not least_error(bare(broken), bare(x)).by_statistics_of


def test_equal_statistics_are_never_equal_values() -> None:
    assert not least_error(bare(normal(8)), bare(normal(8))).identical


def test_an_equal_digest_is() -> None:
    x = normal(8)
    assert least_error(bare(x, digest="crc32:1"), bare(x, digest="crc32:1")).identical
    assert not least_error(bare(x, digest="crc32:1"), bare(x, digest="crc32:2")).identical


def test_it_is_taken_where_either_record_has_no_sketch(tmp_path: Path) -> None:
    x = normal(64)
    whole = record(tmp_path / "dump", x)
    assert record_error(bare(1.01 * x), whole).by_statistics_of
    assert record_error(whole, bare(1.01 * x)).by_statistics_of
    assert not record_error(whole, whole).by_statistics_of


def test_a_reference_of_zeros_is_an_infinite_error_of_anything_else() -> None:
    assert least_error(bare(torch.ones(4)), bare(torch.zeros(4))).rel_l2 == math.inf
    assert least_error(bare(torch.zeros(4)), bare(torch.zeros(4))).rel_l2 == 0
