"""Why the sketch is what it is: the error of its estimates of ||a - b|| and its cost, for other sizes and maps.

Every map projects DRAWS random differences, dense and confined to one channel, and the estimated norms are compared
with the true ones. `buckets` adds element i, its sign drawn, into number i mod k; `scattered` into a drawn one; `dense`
multiplies by a k x n matrix of signs. Prints the table that stands beside SKETCH_SIZE in harness/record/records.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

ELEMENTS, CHANNELS, DRAWS = 65_536, 64, 100
Projection = Callable[[Tensor], Tensor]


def drawn_signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(7)).float() * 2 - 1


def buckets(size: int) -> Projection:
    signs, short = drawn_signs(ELEMENTS), -ELEMENTS % size
    return lambda x: torch.nn.functional.pad(x * signs, (0, short)).view(-1, size).sum(0)


def scattered(size: int) -> Projection:
    signs, place = drawn_signs(ELEMENTS), torch.randint(size, (ELEMENTS,), generator=torch.Generator().manual_seed(8))
    return lambda x: torch.zeros(size).index_add(0, place, x * signs)


def dense(size: int) -> Projection:
    signs = drawn_signs(size, ELEMENTS) / size**0.5
    return lambda x: signs @ x


MAPS = {"buckets": buckets, "scattered": scattered, "dense": dense}


def relative_error(project: Projection, differences: Tensor) -> float:
    """Root mean square of the relative error of the estimated norms of `differences` [DRAWS, ELEMENTS]."""
    estimated = torch.stack([project(difference).norm() for difference in differences])
    return float((estimated / differences.norm(dim=1) - 1).square().mean().sqrt())


@pytest.fixture(scope="module")
def differences() -> Tensor:
    return torch.randn(DRAWS, ELEMENTS, generator=torch.Generator().manual_seed(1))


@pytest.mark.benchmark(group="sketch")
@pytest.mark.parametrize("size", [31, 61, 64, 127, 128])
@pytest.mark.parametrize("kind", MAPS)
def test_sketch(kind: str, size: int, differences: Tensor, benchmark: Any) -> None:
    project = MAPS[kind](size)
    in_one_channel = differences * (torch.arange(ELEMENTS) % CHANNELS == 0)
    benchmark.pedantic(project, args=(differences[0],), rounds=50, warmup_rounds=3)
    figures = {
        "relative_error": relative_error(project, differences),
        "relative_error_of_one_channel": relative_error(project, in_one_channel),
        "nanoseconds_per_element": benchmark.stats.stats.min / ELEMENTS * 1e9,
        "bytes_per_record": (size * 4 + 2) // 3 * 4,
    }
    print(f"{kind} k={size}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    benchmark.extra_info |= {"row": f"sketch-{kind}-{size}", **figures}
