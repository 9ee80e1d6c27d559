import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waypoint_parity.harness.compare.pictures import read_pixels
from waypoint_parity.reports.gallery import MOST_GAIN, Gallery, amplified, lossy
from waypoint_parity.reports.run import FinishedRun, read_run


@pytest.fixture(scope="module")
def run(diverged: Path) -> FinishedRun:
    return read_run(diverged)


def shown_at(uri: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as image:
        return image.size


def test_a_difference_is_shown_as_large_as_fits_by_a_power_of_two() -> None:
    expected = np.full((64, 64, 3), 100, np.uint8)
    for step, gain in ((1, MOST_GAIN), (3, 64), (60, 4), (150, 1)):
        found, difference = amplified(expected + np.uint8(step), expected)
        assert found == gain
        assert (difference == gain * step).all()
    assert not amplified(expected, expected)[1].any()


def test_the_difference_is_that_of_the_exact_pictures(run: FinishedRun, diverged: Path) -> None:
    assert run.focus is not None
    at = run.focus.pictures[-1]
    exact = [read_pixels(run.focus.picture(side, at)) for side in ("candidate", "reference")]
    gain, difference = amplified(*exact)
    shown = Gallery(diverged / "report.html", run).shown(run.focus)[-1]
    assert shown.gain == gain
    assert shown.pictures["difference"] == lossy(difference, difference.shape[1])


def test_the_cell_in_focus_is_shown_in_full_and_the_others_smaller(run: FinishedRun, diverged: Path) -> None:
    gallery = Gallery(diverged / "report.html", run)
    (other,) = (cell for cell in run.cells if cell is not run.focus)
    assert run.focus is not None
    assert {shown_at(shown.pictures["reference"]) for shown in gallery.shown(run.focus)} == {(640, 360)}
    assert {shown_at(shown.pictures["candidate"]) for shown in gallery.shown(other)} == {(320, 180)}


def test_a_small_budget_makes_small_pictures_and_a_used_up_one_none_but_links(run: FinishedRun, diverged: Path) -> None:
    (other,) = (cell for cell in run.cells if cell is not run.focus)
    for budget in (300_000, 100_000, 100):
        shown = Gallery(diverged / "report.html", run, budget).shown(other)
        assert sum(len(uri) for each in shown for uri in each.pictures.values()) <= budget
        assert all((diverged / link).is_file() for each in shown for link in each.links.values())
    assert not any(each.pictures for each in shown)
