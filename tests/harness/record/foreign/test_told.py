"""Statistics of other tools, in our terms: never further off than the record says."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.harness.observations import normal
from waypoint_parity.harness.record.foreign.told import Told, number, rounding, sizes, told
from waypoint_parity.harness.record.statistics import summarise

STATISTICS = ("mean", "std", "min", "max", "absmean", "rms")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def of_fastvideo(x: Tensor) -> Mapping[str, float]:
    x = x.float()
    return {
        "mean": x.mean().item(),
        "sample_std": x.std().item(),
        "low": x.min().item(),
        "high": x.max().item(),
        "absmean": x.abs().mean().item(),
    }


def of_msprobe(x: Tensor) -> Mapping[str, float]:
    return {"mean": x.mean().item(), "norm": x.norm().item(), "low": x.min().item(), "high": x.max().item()}


def of_transformers(x: Tensor) -> Mapping[str, float]:
    values = {"mean": x.mean(), "sample_std": x.std(), "low": x.min(), "high": x.max()}
    return {name: float(f"{value.item():.4e}") for name, value in values.items()}


TOOLS = {
    "fastvideo": (of_fastvideo, lambda dtype: rounding("float32")),
    "msprobe": (of_msprobe, rounding),
    "transformers": (of_transformers, lambda dtype: max(1e-4, rounding(dtype))),
}


@pytest.mark.parametrize("offset", [0.0, 0.3, 5.0, -40.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tool", TOOLS)
def test_no_statistic_is_further_off_than_the_record_says(tool: str, dtype: torch.dtype, offset: float) -> None:
    x = (normal(6, 50) + offset).to(dtype)
    written, resolution = TOOLS[tool]
    name = str(dtype).removeprefix("torch.")
    found = told(shape=[6, 50], dtype=f"torch.{name}", resolution=resolution(name), **written(x))
    assert (found.shape, found.dtype) == ([6, 50], name)
    right = summarise(x)
    assert right.rms is not None
    for statistic in STATISTICS:
        value, exact = getattr(found, statistic), getattr(right, statistic)
        if value is not None:
            assert abs(value - exact) <= found.resolution * max(abs(exact), right.rms), statistic
    # What the tool wrote, or what follows from it, is there.
    assert None not in (found.mean, found.min, found.max, found.rms)
    assert found.resolution < 2 * resolution(name)


def test_a_spread_that_cancels_is_left_out() -> None:
    x = normal(400) + 100
    found = told(shape=[400], dtype="float32", resolution=1e-6, **of_msprobe(x))
    assert found.std is None
    assert found.rms == pytest.approx(summarise(x).rms)


def test_a_sum_needs_the_number_of_elements() -> None:
    assert told(shape=[2, 4], dtype=None, resolution=0.0, total=4.0).mean == 0.5
    unknown = told(shape=None, dtype=None, resolution=0.0, total=4.0, sample_std=1.0, norm=3.0, absmean=2.0)
    assert (unknown.mean, unknown.std, unknown.rms, unknown.absmean) == (None, None, None, 2.0)


def test_one_element_has_no_spread() -> None:
    found = told(shape=[], dtype="float32", resolution=0.0, mean=3.0, sample_std=math.nan)
    assert (found.std, found.rms, found.nan) == (0.0, 3.0, 0)


def test_no_elements_have_no_statistics() -> None:
    found = told(shape=[0, 3], dtype="float32", resolution=0.0, mean=math.nan, total=0.0, absmean=math.nan)
    assert found == Told(shape=[0, 3], dtype="float32")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mean": math.nan, "low": math.nan, "high": math.nan}, (1, 0, 0)),
        ({"mean": math.nan, "low": -math.inf, "high": math.inf}, (0, 1, 1)),
        ({"mean": math.inf, "low": -2.0, "high": math.inf}, (0, 1, 0)),
        ({"total": math.nan, "absmean": math.nan}, (1, 0, 0)),
        ({"total": math.nan, "absmean": math.inf}, (0, 1, 1)),
        ({"total": -math.inf, "absmean": math.inf}, (0, 0, 1)),
        ({"norm": math.inf, "low": -2.0, "high": 60000.0}, (0, 0, 0)),  # a norm in fp16 leaves its range
    ],
)
def test_what_is_not_finite_is_seen_at_least_once(given: dict[str, float], expected: tuple[int, int, int]) -> None:
    found = told(shape=[4], dtype="float32", resolution=0.0, **given)
    assert (found.nan, found.posinf, found.neginf) == expected
    assert all(getattr(found, name) is None or math.isfinite(getattr(found, name)) for name in STATISTICS)
    assert found.min == (given["low"] if math.isfinite(given.get("low", math.nan)) else None)


def test_what_is_no_number_is_none() -> None:
    words = [None, "<error: RuntimeError('min()')>", [1.0], {}, 10**400]
    assert [number(value) for value in words] == [None] * len(words)
    assert [number(value) for value in (True, 3, 0.5)] == [1.0, 3.0, 0.5]
    assert [sizes(value) for value in ("3", [1, -1], [1, "2"], [1 << 40, 1 << 40])] == [None] * 4
    assert sizes([]) == []
