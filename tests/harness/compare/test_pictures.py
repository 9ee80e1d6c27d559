from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from waypoint_parity.harness.compare.pictures import Pixels, picture_metrics, read_pixels, rms
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import PictureAt

AT = PictureAt(0)
EXPECTED: Pixels = np.random.default_rng(0).integers(60, 180, (48, 64, 3), dtype=np.uint8)


def test_equal_pictures_have_no_error_and_no_psnr() -> None:
    found = picture_metrics(PictureAt(3, 1, 2), EXPECTED.copy(), EXPECTED)
    assert (found.at, found.ssim, found.mean_abs, found.max_abs, found.psnr) == (PictureAt(3, 1, 2), 1.0, 0.0, 0, None)


def test_differences_are_in_levels_of_255() -> None:
    found = picture_metrics(AT, EXPECTED + np.uint8(10), EXPECTED)
    assert (found.mean_abs, found.max_abs) == (10.0, 10)
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / 100))


def test_the_relative_error_is_that_of_the_levels() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    assert picture_metrics(AT, grey + np.uint8(5), grey).rel_l2 == pytest.approx(0.05)
    assert picture_metrics(AT, grey, np.zeros_like(grey)).rel_l2 is None
    assert rms(grey) == pytest.approx(100)


def test_noise_is_what_the_bound_allows() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    found = picture_metrics(AT, grey + np.uint8(5), grey)
    assert not found.within_noise
    assert msgspec.structs.replace(found, bound=0.051).within_noise
    assert not msgspec.structs.replace(found, bound=0.049).within_noise
    assert picture_metrics(AT, grey, grey).within_noise


def test_ssim_in_fp32_is_good_to_a_millionth() -> None:
    noise = np.random.default_rng(2).integers(-2, 3, EXPECTED.shape)
    actual = (EXPECTED + noise).astype(np.uint8)
    exact, fast = (picture_metrics(AT, actual, EXPECTED, precision=precision) for precision in (np.float64, np.float32))
    assert fast.ssim == pytest.approx(exact.ssim, abs=1e-6)
    assert (fast.mean_abs, fast.psnr) == (exact.mean_abs, exact.psnr)


def test_a_difference_below_zero_does_not_wrap_around() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert picture_metrics(AT, black, white).max_abs == picture_metrics(AT, white, black).max_abs == 255
    assert picture_metrics(AT, black, white).psnr == 0.0


def test_one_changed_level_shows_in_every_number() -> None:
    actual = EXPECTED.copy()
    actual[4, 5, 1] += 1
    found = picture_metrics(AT, actual, EXPECTED)
    assert found.max_abs == 1
    assert found.mean_abs == pytest.approx(1 / EXPECTED.size)
    assert 0.99 < found.ssim < 1.0


def test_ssim_falls_with_noise_and_is_no_more_for_an_unrelated_picture() -> None:
    generator = np.random.default_rng(1)

    def noisy(size: int) -> Pixels:
        return (EXPECTED + generator.integers(-size, size + 1, EXPECTED.shape)).clip(0, 255).astype(np.uint8)

    ssim = [picture_metrics(AT, actual, EXPECTED).ssim for actual in (noisy(1), noisy(20), EXPECTED[::-1].copy())]
    assert ssim == sorted(ssim, reverse=True)
    assert ssim[0] > 0.99
    assert abs(ssim[2]) < 0.2


def test_pixels_are_read_from_an_image_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(EXPECTED).save(tmp_path / "frame.png")
    assert np.array_equal(read_pixels(tmp_path / "frame.png"), EXPECTED)


def test_an_image_that_was_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "000000.png"
    Image.fromarray(EXPECTED).save(file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"000000\.png: cannot be read as an image"):
        read_pixels(file)


def test_a_picture_smaller_than_the_window_of_ssim_is_one_window() -> None:
    small = EXPECTED[:6, :6]
    assert picture_metrics(AT, small + np.uint8(1), small).ssim == pytest.approx(1.0, abs=1e-3)
    assert abs(picture_metrics(AT, small[::-1].copy(), small).ssim) < 0.6
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert picture_metrics(AT, black, white).ssim == pytest.approx(0.0, abs=1e-3)
