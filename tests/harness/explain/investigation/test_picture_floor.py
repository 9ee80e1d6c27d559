"""The floor is measured on a picture with an error of exactly the size that the bound allows, spread evenly."""

import numpy as np
import pytest

from waypoint_parity.harness.compare.pictures import Pixels, rms
from waypoint_parity.harness.compare.sharpness import sharpness
from waypoint_parity.harness.explain.investigation.picture_floor import picture_floor

GREY: Pixels = np.random.default_rng(0).integers(60, 180, (96, 128, 3), dtype=np.uint8)
# Half of it can only be changed in one direction.
BLACK_AND_WHITE: Pixels = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (96, 128, 3))


@pytest.mark.parametrize("picture", [GREY, BLACK_AND_WHITE], ids=["grey", "black and white"])
@pytest.mark.parametrize("levels", [0.03, 0.5, 1.0, 3.0, 12.0])
def test_its_psnr_is_that_of_the_bound(picture: Pixels, levels: float) -> None:
    floor = picture_floor(picture, sharpness(picture), levels / rms(picture))
    assert floor is not None
    assert floor.psnr == pytest.approx(20 * np.log10(255 / levels), abs=0.3)


def test_below_one_level_some_values_differ_by_one() -> None:
    floor = picture_floor(GREY, sharpness(GREY), 0.2 / rms(GREY))
    assert floor is not None
    assert floor.mean_abs == pytest.approx(0.2**2, rel=0.01)


def test_a_larger_bound_lets_more_of_the_picture_go_and_noise_makes_it_sharper() -> None:
    ramp = np.broadcast_to(np.arange(60, 188, dtype=np.uint8)[:, None], (96, 128, 3)).copy()
    floors = [picture_floor(ramp, sharpness(ramp), bound) for bound in (1e-3, 1e-2, 1e-1)]
    ssim = [floor.ssim for floor in floors if floor is not None]
    sharper = [floor.sharpness for floor in floors if floor is not None]
    assert ssim == sorted(ssim, reverse=True)
    assert 1.0 > ssim[0] > 0.999
    assert ssim[2] < 0.9
    assert 1.0 < sharper[0] < sharper[1] < sharper[2]


@pytest.mark.parametrize("bound", [None, 0.0, float("inf")])
def test_there_is_none_without_a_bound_or_an_error(bound: float | None) -> None:
    assert picture_floor(GREY, 1.0, bound) is None


def test_it_is_the_same_whenever_it_is_measured() -> None:
    assert picture_floor(GREY, 1.0, 0.02) == picture_floor(GREY, 1.0, 0.02)
