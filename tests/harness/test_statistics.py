import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.records import SAMPLES, SKETCH_SIZE
from harness.statistics import CHUNK, Summary, measure, summarise

MOMENTS = ("mean", "std", "min", "max", "absmean", "rms")
# Around the sizes at which the sweep changes: within a chunk, at its edge, over several blocks of chunks.
SIZES = [1, 2, 7, 61, CHUNK - 1, CHUNK, CHUNK + 1, 8 * CHUNK + 5]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    "pixels": lambda size, seed: (normal(size, seed) * 255).to(torch.uint8),
    "some infinite, some NaN": lambda size, seed: partly_special(size, seed),
}


def partly_special(size: int, seed: int) -> Tensor:
    tensor = normal(size, seed)
    for start, special in enumerate((math.inf, -math.inf, math.nan), start=1):
        tensor[start::7] = special
    return tensor


def in_numpy(tensor: Tensor) -> dict[str, float]:
    """The definition: population statistics of the finite elements, in fp64."""
    values = tensor.double().numpy()
    values = values[np.isfinite(values)]
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_statistics_agree_with_numpy_in_fp64(kind: str, size: int) -> None:
    tensor = KINDS[kind](size, 3)
    found, expected = summarise(tensor), in_numpy(tensor)
    for name in MOMENTS:
        # A mean or deviation near 0 is compared on the scale of the values that it is taken over.
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6, abs=1e-6 * expected["rms"]), name


@quick
@given(st.lists(st.floats(width=32), min_size=1, max_size=300))
def test_statistics_agree_with_numpy_on_whatever_values(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    found = summarise(tensor)
    assert found.nan == sum(map(math.isnan, values))
    assert (found.posinf, found.neginf) == (values.count(math.inf), values.count(-math.inf))
    if not torch.isfinite(tensor).any():
        assert {getattr(found, name) for name in MOMENTS} == {None}
        return
    expected = in_numpy(tensor)
    for name in MOMENTS:
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6, abs=1e-6 * expected["rms"]), name


def test_a_constant_has_no_deviation() -> None:
    assert summarise(torch.full((3 * CHUNK + 1,), 0.1)).std == pytest.approx(0.0, abs=1e-9)


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
def with_threads() -> Iterator[Callable[[int, Tensor], Tensor]]:
    before = torch.get_num_threads()

    def measured(threads: int, tensor: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        return measure(tensor)

    yield measured
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["normal", "bf16", "huge", "some infinite, some NaN"])
@pytest.mark.parametrize("size", [1000, CHUNK, 1_000_003])
def test_the_thread_count_changes_no_bit(with_threads: Callable[[int, Tensor], Tensor], kind: str, size: int) -> None:
    tensor = KINDS[kind](size, 5)
    alone = with_threads(1, tensor)
    for threads in (2, 4):
        assert with_threads(threads, tensor).view(torch.int64).equal(alone.view(torch.int64)), threads


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


def permuted_heads(q: Tensor) -> Tensor:
    return q.roll(1, dims=1)


def flipped_sign(q: Tensor) -> Tensor:
    return torch.where(torch.arange(q.shape[-1]) % 2 == 0, q, -q)


def transposed_tokens(q: Tensor) -> Tensor:
    return q.flip(2)


@pytest.mark.parametrize("fault", [permuted_heads, flipped_sign, transposed_tokens])
def test_faults_that_mean_and_std_cannot_see_are_seen(fault: Callable[[Tensor], Tensor]) -> None:
    half = normal(4 * 16 * 32, 1).view(1, 4, 16, 32)
    q = torch.cat([half, -half], dim=1)  # symmetric, so that flipping signs keeps mean, minimum and maximum too
    broken = fault(q)
    before, after = in_numpy(q), in_numpy(broken)
    assert before["std"] == pytest.approx(after["std"], rel=1e-6)
    assert (before["min"], before["max"]) == (after["min"], after["max"])
    assert before["mean"] == pytest.approx(after["mean"], abs=1e-9)
    assert estimated_distance(q, broken) == pytest.approx(float((q - broken).norm()), rel=0.3)


def test_exchanged_queries_and_keys_are_seen() -> None:
    q, k = normal(4096, 1), normal(4096, 2)
    k = (k - k.mean()) / k.std() * q.std() + q.mean()
    assert in_numpy(q)["std"] == pytest.approx(in_numpy(k)["std"], rel=1e-5)
    assert estimated_distance(q, k) == pytest.approx(float((q - k).norm()), rel=0.3)


def test_the_sketch_counts_what_is_not_finite_as_zero() -> None:
    tensor = normal(1000, 1)
    broken = tensor.clone()
    broken[::3] = math.nan
    assert sketch(broken) == pytest.approx(sketch(broken.nan_to_num(0.0)))


def test_a_summary_survives_packing() -> None:
    tensor = normal(5000, 8)
    assert Summary.unpack(measure(tensor)) == summarise(tensor)
