import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from waypoint_parity.harness.record.records import SAMPLES, SKETCH_SIZE
from waypoint_parity.harness.record.statistics import CHUNK, Measurements, Statistics, measure, project, summarise

MOMENTS = ("mean", "std", "min", "max", "absmean", "rms")
# Around the sizes at which the sweep changes: within a chunk, at its edge, over several blocks of chunks.
SIZES = [1, 2, 7, 61, CHUNK - 1, CHUNK, CHUNK + 1, 16 * CHUNK + 5]
quick = settings(max_examples=60, deadline=None)


def normal(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


KINDS: dict[str, Callable[[int, int], Tensor]] = {
    "normal": normal,
    "constant": lambda size, seed: torch.full((size,), 0.1 + seed),
    "constant with a large offset": lambda size, seed: 1e4 + normal(size, seed) * 1e-2,
    "zero": lambda size, seed: torch.zeros(size),
    "huge": lambda size, seed: normal(size, seed).clamp(-3, 3) * 1e38,
    "the largest fp32": lambda size, seed: torch.full((size,), torch.finfo(torch.float32).max),
    "tiny": lambda size, seed: normal(size, seed) * 1e-30,
    "subnormal": lambda size, seed: normal(size, seed) * 1e-41,
    "huge and tiny together": lambda size, seed: normal(size, seed) * 10.0 ** torch.linspace(-30, 30, size),
    "bf16": lambda size, seed: normal(size, seed).bfloat16(),
    "whole numbers": lambda size, seed: torch.arange(size) - seed,
    "truth values": lambda size, seed: normal(size, seed) > 0,
    "bf16 with a large offset": lambda size, seed: (300 + normal(size, seed)).bfloat16(),
    "pixels": lambda size, seed: (normal(size, seed) * 255).to(torch.uint8),
    "some infinite, some NaN": lambda size, seed: partly_special(size, seed),
}


def partly_special(size: int, seed: int) -> Tensor:
    tensor = normal(size, seed)
    for start, special in enumerate((math.inf, -math.inf, math.nan), start=1):
        tensor[start::7] = special
    return tensor


def in_numpy(tensor: Tensor) -> dict[str, float]:
    """The definition: population statistics of the finite elements, in fp64. Without any there are none."""
    values = tensor.double().numpy()
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    return {
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "max": values.max(),
        "absmean": np.abs(values).mean(),
        "rms": np.sqrt(np.square(values).mean()),
    }


def sketch(tensor: Tensor) -> npt.NDArray[np.float64]:
    return np.frombuffer(summarise(tensor).sketch, "<f4").astype(np.float64)


def estimated_distance(left: Tensor, right: Tensor) -> float:
    return float(np.linalg.norm(sketch(left) - sketch(right)))


def assert_agrees_with_numpy(tensor: Tensor) -> None:
    found, expected = summarise(tensor), in_numpy(tensor)
    for name, value in expected.items():
        # A mean or deviation near 0 is compared on the scale of the values that it is taken over.
        assert getattr(found, name) == pytest.approx(value, rel=1e-6, abs=1e-6 * expected["rms"]), name
    assert expected or {getattr(found, name) for name in MOMENTS} == {None}
    specials = (int(tensor.isnan().sum()), int(tensor.isposinf().sum()), int(tensor.isneginf().sum()))
    assert (found.nan, found.posinf, found.neginf) == specials


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_statistics_agree_with_numpy_in_fp64(kind: str, size: int) -> None:
    assert_agrees_with_numpy(KINDS[kind](size, 3))


@quick
@given(
    kind=st.sampled_from(sorted(KINDS)),
    chunks=st.integers(0, 18),
    beyond=st.integers(-3, 3) | st.integers(-CHUNK, CHUNK),
    seed=st.integers(0, 99),
)
def test_statistics_agree_with_numpy_at_any_size(kind: str, chunks: int, beyond: int, seed: int) -> None:
    assert_agrees_with_numpy(KINDS[kind](max(0, chunks * CHUNK + beyond), seed))


@quick
@given(st.lists(st.floats(width=32), max_size=300))
def test_statistics_agree_with_numpy_on_whatever_values(values: list[float]) -> None:
    assert_agrees_with_numpy(torch.tensor(values, dtype=torch.float32))


@quick
@given(st.lists(st.floats(width=16), max_size=300))
def test_statistics_agree_with_numpy_on_whatever_bf16_values(values: list[float]) -> None:
    assert_agrees_with_numpy(torch.tensor(values, dtype=torch.bfloat16))


def test_a_constant_has_no_deviation() -> None:
    assert summarise(torch.full((3 * CHUNK + 1,), 0.1)).std == pytest.approx(0.0, abs=1e-9)


def test_a_large_offset_is_known_better_than_an_fp32_could_hold_it() -> None:
    """The norms of two nearly equal tensors are compared: an offset must not drown the ninth digit of theirs."""
    tensor = KINDS["constant with a large offset"](3 * CHUNK + 1, 3)
    found, expected = summarise(tensor), in_numpy(tensor)
    assert (found.mean, found.rms) == pytest.approx((expected["mean"], expected["rms"]), rel=1e-9)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_a_tensor_without_a_finite_element_has_no_statistics(special: float) -> None:
    found = summarise(torch.full((100,), special))
    assert {getattr(found, name) for name in MOMENTS} == {None}
    assert (found.nan + found.posinf + found.neginf, found.sample) == (100, [None] * SAMPLES)


def test_an_empty_tensor_has_no_statistics() -> None:
    found = summarise(torch.empty(0, 4))
    assert {getattr(found, name) for name in MOMENTS} == {None}
    assert found.sample == [None] * SAMPLES


def test_the_sample_holds_the_first_and_the_last_element() -> None:
    found = summarise(torch.arange(1000.0))
    assert len(found.sample) == SAMPLES
    assert (found.sample[0], found.sample[-1]) == (0.0, 999.0)


def test_what_a_layout_in_memory_does_not_change() -> None:
    tensor = normal(6 * CHUNK, 1).view(6, -1)
    assert summarise(tensor.T.contiguous().T) == summarise(tensor)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["normal", "bf16", "huge", "some infinite, some NaN"])
@pytest.mark.parametrize("size", [1000, CHUNK, 3 * CHUNK, 1_000_003])
def test_the_thread_count_changes_no_bit(threads: Callable[[int], None], kind: str, size: int) -> None:
    def measured(count: int) -> Tensor:
        threads(count)
        return measure(tensor).view(torch.int64)

    tensor = KINDS[kind](size, 5)
    alone = measured(1)
    assert measured(2).equal(alone)
    assert measured(4).equal(alone)


@pytest.mark.parametrize("size", SIZES)
def test_the_sketch_is_linear(size: int) -> None:
    a, b = normal(size, 1), normal(size, 2)
    # 2a and a + b are rounded to fp32 before they are sketched.
    assert sketch(2 * a) == pytest.approx(2 * sketch(a), rel=1e-6)
    assert sketch(a + b) == pytest.approx(sketch(a) + sketch(b), abs=1e-6 * size**0.5)


def test_the_sketch_of_few_elements_is_those_elements_up_to_signs() -> None:
    few = normal(SKETCH_SIZE, 4)
    assert np.abs(sketch(few)) == pytest.approx(few.abs().numpy())


def test_the_sketch_keeps_the_square_of_the_norm_in_the_mean() -> None:
    vectors = [normal(3 * CHUNK + 11, seed) for seed in range(200)]
    ratios = [float(np.square(sketch(x)).sum() / x.double().square().sum()) for x in vectors]
    # One ratio has a deviation of sqrt(2/k) = 18 %, the mean of 200 one of 1.3 %.
    assert np.mean(ratios) == pytest.approx(1.0, abs=4 * math.sqrt(2 / SKETCH_SIZE / len(ratios)))


def test_the_estimated_distance_is_good_to_the_documented_9_percent() -> None:
    pairs = [(normal(65_536, seed), normal(65_536, seed) + 1e-3 * normal(65_536, seed + 1000)) for seed in range(200)]
    errors = np.array([estimated_distance(a, b) / float((a - b).double().norm()) - 1 for a, b in pairs])
    print(
        f"relative error of the estimated distance: {errors.std():.4f}, {1 / math.sqrt(2 * SKETCH_SIZE):.4f} in theory"
    )
    assert errors.std() == pytest.approx(1 / math.sqrt(2 * SKETCH_SIZE), rel=0.25)
    assert np.abs(errors).max() < 0.4


@pytest.mark.parametrize("channels", [4, 64, 2048])
def test_a_single_outlier_channel_does_not_decide_the_estimate(channels: int) -> None:
    """A channel is a stride of 2**n elements: with a bucket count of 2**m it would fill a single bucket."""
    a = normal(512 * channels, 1).view(512, channels)
    b = a.clone()
    b[:, 0] += 100 * normal(512, 2)
    assert estimated_distance(a, b) == pytest.approx(float((a - b).norm()), rel=0.35)


CHUNKS = (1, 2, 3, 4, 8, 20, 21, 61, 64, 122)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(
    "difference",
    [
        lambda place: torch.ones_like(place),
        lambda place: place,
        lambda place: (place % 2) * 2 - 1,
        lambda place: torch.sin(place % 61),
        lambda place: torch.sin(place % CHUNK),
        lambda place: torch.sin(place % 2560),
    ],
    ids=["an offset", "a ramp", "turns", "by bucket", "by chunk", "an offset per channel"],
)
def test_a_difference_with_a_pattern_is_estimated_as_well_as_a_random_one(
    chunks: int, difference: Callable[[Tensor], Tensor]
) -> None:
    place = torch.arange(chunks * CHUNK + 40, dtype=torch.float64)
    a = normal(len(place), 1)
    b = a + 1e-2 * difference(place).float()
    assert estimated_distance(a, b) == pytest.approx(float((a - b).double().norm()), rel=0.4)


def test_a_longer_tensor_is_sketched_as_its_beginning_was() -> None:
    short = normal(3 * CHUNK, 1).bfloat16()
    longer = torch.cat([short, torch.zeros(1030 * CHUNK, dtype=torch.bfloat16)])
    assert sketch(longer) == pytest.approx(sketch(short))


def test_the_sketch_counts_what_is_not_finite_as_zero() -> None:
    tensor = normal(1000, 1)
    broken = tensor.clone()
    broken[::3] = math.nan
    assert sketch(broken) == pytest.approx(sketch(broken.nan_to_num(0.0)))


def seen_in_a_pass() -> list[Tensor]:
    """Tensors of the sizes and dtypes of a pass: alike, with others between, large ones among them."""
    small = [normal(size, seed) for seed in range(3) for size in (1, 4, 64, 1000)]
    special = [KINDS[kind](64, 1) for kind in ("bf16", "some infinite, some NaN", "huge", "truth values")]
    return [*small, normal(3 * CHUNK + 1, 1), *special, torch.empty(0), normal(CHUNK, 2), normal(64, 9).view(8, 8).T]


def test_what_is_measured_of_a_tensor_does_not_depend_on_its_company() -> None:
    measurements, tensors = Measurements(), seen_in_a_pass()
    for tensor in tensors:
        measurements.add(tensor)
    assert measurements.fetch() == [summarise(tensor) for tensor in tensors]


def test_every_fetch_gives_what_was_added_since_the_last() -> None:
    measurements = Measurements()
    assert measurements.fetch() == []
    for size in (10, 2 * CHUNK):
        measurements.add(normal(size, 1))
        assert measurements.fetch() == [summarise(normal(size, 1))]


@pytest.mark.parametrize("size", [10, 2 * CHUNK])
def test_a_tensor_may_be_reused_once_it_was_added(size: int) -> None:
    measurements, tensor = Measurements(), normal(size, 1)
    measurements.add(tensor)
    tensor.zero_()
    assert measurements.fetch() == [summarise(normal(size, 1))]


def test_the_thread_count_changes_no_bit_of_what_is_measured_together(threads: Callable[[int], None]) -> None:
    def measured(count: int) -> list[Statistics]:
        threads(count)
        measurements = Measurements()
        for tensor in [*seen_in_a_pass(), *(normal(CHUNK - 1, seed) for seed in range(5))]:
            measurements.add(tensor)
        return measurements.fetch()

    assert measured(2) == measured(4) == measured(1)


@pytest.mark.parametrize("size", [0, 10, CHUNK, 40 * CHUNK + 7])
def test_nothing_waits_for_the_device_until_the_pass_is_over(size: int) -> None:
    """A meta tensor has no values: whatever looked at one before the transfer would fail."""
    measurements = Measurements()
    measurements.add(torch.empty(size, device="meta"))
    assert measure(torch.empty(size, device="meta")).is_meta
    with pytest.raises(NotImplementedError, match="meta"):
        measurements.fetch()


@pytest.mark.parametrize("size", [1, 60, 61, 1000, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_the_sketch_in_fp64_is_that_of_a_record(size: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size))
    fp64 = np.frombuffer(project(x.double()), "<f8")
    fp32 = np.frombuffer(summarise(x).sketch, "<f4")
    assert np.linalg.norm(fp64 - fp32) < 1e-6 * np.linalg.norm(fp64)


def test_the_sketch_in_fp64_tells_a_trillionth() -> None:
    x = torch.randn(2 * CHUNK, generator=torch.Generator().manual_seed(5)).double()
    sketches = [np.frombuffer(project(x * factor), "<f8") for factor in (1.0, 1 + 1e-12)]
    apart = np.linalg.norm(sketches[1] - sketches[0]) / np.linalg.norm(sketches[0])
    assert apart == pytest.approx(1e-12, rel=0.1)
