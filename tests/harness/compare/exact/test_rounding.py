"""Rounding otherwise: one neighbour or the other, and what is exact stays."""

import random

import pytest
import torch
from torch import Tensor

from waypoint_parity.harness.compare.exact.rounding import either_neighbour, one_unit_off

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Odd, and as large as those that a shadow draws.
SALTS = (0x1D872B41A5D2F6C3, 2**62 + 0x5DEECE66D, 3935559000370003845)


@pytest.fixture(params=FLOATS)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return FLOATS[request.param]


@pytest.fixture(params=SALTS)
def salt(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def below(y: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest value of `dtype` that is not above y."""
    near = y.to(dtype)
    return torch.where(near.double() > y, torch.nextafter(near, torch.full_like(near, -torch.inf)), near).double()


def above(y: Tensor, dtype: torch.dtype) -> Tensor:
    return -below(-y, dtype)


class TestEitherNeighbour:
    def test_it_is_one_of_two(self, dtype: torch.dtype, salt: int) -> None:
        y = drawn(50, 40)
        found = either_neighbour(y, dtype, salt)
        low, high = below(y, dtype), above(y, dtype)
        assert found.dtype is torch.float64
        assert bool((low < high).any())
        assert bool(((found == low) | (found == high)).all())

    def test_both_come_as_often(self, dtype: torch.dtype, salt: int) -> None:
        y = drawn(100, 100)
        found, low, high = either_neighbour(y, dtype, salt), below(y, dtype), above(y, dtype)
        inexact = low < high
        share = float((found == high)[inexact].double().mean())
        # Four standard deviations of 10,000 throws.
        assert abs(share - 0.5) < 0.02
        # Neither the nearer one nor the larger magnitude is preferred.
        assert abs(float((found == y.to(dtype).double())[inexact].double().mean()) - 0.5) < 0.02
        assert abs(float((found.abs() > y.abs())[inexact].double().mean()) - 0.5) < 0.02

    def test_what_lies_in_the_dtype_stays(self, dtype: torch.dtype, salt: int) -> None:
        exact = torch.cat([drawn(500).to(dtype).double(), torch.tensor([0.0, -0.0, 1.0, -2.0, 2.0**-14])])
        found = either_neighbour(exact, dtype, salt)
        assert torch.equal(found, exact)

    def test_the_same_value_goes_the_same_way(self, dtype: torch.dtype, salt: int) -> None:
        y = drawn(64).repeat(7).view(7, 64)
        found = either_neighbour(y, dtype, salt)
        assert torch.equal(found, found[:1].expand(7, -1))
        assert torch.equal(found, either_neighbour(y.mT, dtype, salt).mT)

    def test_another_salt_goes_another_way(self, dtype: torch.dtype) -> None:
        y = drawn(1000)
        ways = [either_neighbour(y, dtype, salt) > y for salt in SALTS]
        for at, one in enumerate(ways):
            for other in ways[:at]:
                assert 0.3 < float((one == other).double().mean()) < 0.7

    def test_what_is_not_finite_stays(self, dtype: torch.dtype, salt: int) -> None:
        y = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e300, -1e300], dtype=torch.float64)
        found = either_neighbour(y, dtype, salt)
        assert found[:2].tolist() == [torch.inf, -torch.inf]
        assert bool(found[2].isnan())
        # Too large for the dtype.
        assert found[3:].tolist() == [torch.inf, -torch.inf]

    def test_of_a_complex_number_each_part_goes_its_way(self, salt: int) -> None:
        y = torch.view_as_complex(drawn(200, 2))
        found = either_neighbour(y.conj(), torch.float32, salt)
        parts = torch.view_as_real(found)
        wanted = torch.view_as_real(y.conj().resolve_conj())
        assert found.dtype is torch.complex128
        assert torch.equal(parts, either_neighbour(wanted, torch.float32, salt))

    def test_a_large_tensor_is_as_its_parts(self, dtype: torch.dtype, salt: int) -> None:
        y = drawn(3, 50_001)
        found = either_neighbour(y.mT, dtype, salt)
        assert found.shape == (50_001, 3)
        assert torch.equal(found[:1000], either_neighbour(y.mT[:1000], dtype, salt))
        assert torch.equal(found[-1000:], either_neighbour(y.mT[-1000:], dtype, salt))

    def test_no_element_and_no_axis(self, dtype: torch.dtype, salt: int) -> None:
        assert either_neighbour(torch.zeros(0, 3, dtype=torch.float64), dtype, salt).shape == (0, 3)
        assert either_neighbour(torch.tensor(0.1, dtype=torch.float64), dtype, salt).shape == ()


class TestOneUnitOff:
    def test_it_is_the_next_value_on_either_side(self, dtype: torch.dtype, salt: int) -> None:
        x = drawn(60, 50).to(dtype)
        found = one_unit_off(x, salt)
        up, down = (torch.nextafter(x, torch.full_like(x, to)).double() for to in (torch.inf, -torch.inf))
        assert found.dtype is torch.float64
        assert bool(((found == up) | (found == down)).all())
        assert 0.4 < float((found == up).double().mean()) < 0.6

    def test_values_that_lie_together_go_both_ways(self, dtype: torch.dtype) -> None:
        """Else a lane would be a gain, and no gain of a candidate would be seen beside it."""
        x = (1 + torch.linspace(0, 1, 20_000, dtype=torch.float64)).to(dtype)
        salts = [2 * number + 1 for number in random.Random(0).choices(range(1 << 62), k=200)]
        gains = [float((one_unit_off(x, salt) - x.double()).mean()) / torch.finfo(dtype).eps for salt in salts]
        assert max(map(abs, gains)) < 0.4

    def test_a_power_of_two_moves_too(self, dtype: torch.dtype) -> None:
        x = torch.tensor([0.25, -0.5, 1.0, 2.0, -4.0]).to(dtype)
        for salt in SALTS:
            found, unit = one_unit_off(x, salt), torch.finfo(dtype).eps
            moved = ((found - x.double()) / x.double()).abs() / unit
            assert bool(((moved == 1) | (moved == 0.5)).all())

    def test_zero_and_what_is_not_finite_stay(self, dtype: torch.dtype, salt: int) -> None:
        x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan]).to(dtype)
        found = one_unit_off(x, salt)
        assert found[:4].tolist() == [0.0, 0.0, torch.inf, -torch.inf]
        assert bool(found[4].isnan())

    def test_the_same_value_goes_the_same_way(self, dtype: torch.dtype, salt: int) -> None:
        x = drawn(3, 20_000).to(dtype).mT
        found = one_unit_off(x, salt)
        assert torch.equal(found[:500], one_unit_off(x[:500], salt))
        assert not torch.equal(found, one_unit_off(x, salt + 2))

    def test_of_a_complex_number_each_part_goes_its_way(self, salt: int) -> None:
        x = torch.view_as_complex(drawn(200, 2).float())
        assert torch.equal(torch.view_as_real(one_unit_off(x, salt)), one_unit_off(torch.view_as_real(x), salt))
