"""The pictures of two dumps: the comparison's metrics, and what only they themselves can tell."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

from tests.harness.explain.investigation.values import comparison
from waypoint_parity.harness.compare.pictures import Pixels, picture_metrics
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.investigation.pictures import picture, pictures
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.record.writer import write_pictures
from waypoint_parity.harness.run.keys import Key

SHARP: Pixels = data.astronaut()[:240, :320]
SOFT: Pixels = ndimage.gaussian_filter(SHARP, (1.5, 1.5, 0))


def written(folder: Path, *given: Pixels) -> Path:
    (folder / "frames").mkdir(parents=True)
    for unit, pixels in enumerate(given):
        write_pictures(folder, Key(unit, "decode", 0, "frame"), torch.from_numpy(pixels.copy()))
    return folder


def test_every_compared_picture_is_shown_with_the_metrics_of_the_comparison(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference", SHARP, SHARP)
    candidate = written(tmp_path / "candidate", SHARP, SOFT)
    metrics = [picture_metrics(PictureAt(0), SHARP, SHARP), picture_metrics(PictureAt(1), SOFT, SHARP)]
    metrics = [msgspec.structs.replace(one, bound=1e-3) for one in metrics]
    same, soft = pictures(reference, candidate, comparison(pictures=metrics))
    assert [same.metrics, soft.metrics] == metrics
    assert (same.sharpness, same.decision) == (1.0, None)
    assert soft.sharpness is not None
    assert soft.sharpness < 0.5
    assert soft.decision is not None
    assert soft.decision.cause == "blur"
    # Both are held against the same picture of the reference.
    assert same.floor == soft.floor is not None


def test_a_picture_within_noise_is_not_looked_into() -> None:
    actual = SHARP.copy()
    actual[5, 6] ^= 1
    metrics = picture_metrics(PictureAt(0), actual, SHARP)
    noisy = picture(msgspec.structs.replace(metrics, bound=1e-3), actual, SHARP)
    assert noisy.decision is None
    assert noisy.sharpness == pytest.approx(1.0, abs=1e-3)
    assert picture(metrics, actual, SHARP).decision is not None  # without a bound nothing is noise


def test_a_flat_picture_has_no_sharpness() -> None:
    grey = np.full_like(SHARP, 90)
    assert picture(picture_metrics(PictureAt(0), SHARP, grey), SHARP, grey).sharpness is None


def test_runs_that_cannot_be_compared_have_no_pictures(tmp_path: Path) -> None:
    assert pictures(tmp_path, tmp_path, comparison(pictures=[])) == []


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference", SHARP)
    with pytest.raises(UserError, match=r"candidate/frames/000000\.png"):
        pictures(reference, tmp_path / "candidate", comparison(pictures=[picture_metrics(PictureAt(0), SHARP, SHARP)]))
