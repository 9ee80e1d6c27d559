"""The pictures of two dumps: the comparison's metrics, and what only the frames themselves can tell."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

from tests.harness.explain.investigation.values import comparison
from waypoint_parity.harness.compare.pictures import Pixels, frame_metrics
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.investigation.pictures import picture, pictures
from waypoint_parity.harness.record.writer import write_frame

SHARP: Pixels = data.astronaut()[:240, :320]
SOFT: Pixels = ndimage.gaussian_filter(SHARP, (1.5, 1.5, 0))


def write_frames(folder: Path, *frames: Pixels) -> Path:
    (folder / "frames").mkdir(parents=True)
    for number, frame in enumerate(frames):
        write_frame(folder, number, torch.from_numpy(frame.copy()))
    return folder


def test_every_compared_frame_is_shown_with_the_metrics_of_the_comparison(tmp_path: Path) -> None:
    reference = write_frames(tmp_path / "reference", SHARP, SHARP)
    candidate = write_frames(tmp_path / "candidate", SHARP, SOFT)
    metrics = [frame_metrics(0, SHARP, SHARP), frame_metrics(1, SOFT, SHARP)]
    metrics = [msgspec.structs.replace(one, bound=1e-3) for one in metrics]
    same, soft = pictures(reference, candidate, comparison(frames=metrics))
    assert [same.metrics, soft.metrics] == metrics
    assert (same.sharpness, same.decision) == (1.0, None)
    assert soft.sharpness is not None
    assert soft.sharpness < 0.5
    assert soft.decision is not None
    assert soft.decision.cause == "blur"
    # Both are held against the same frame of the reference.
    assert same.floor == soft.floor is not None


def test_a_frame_within_noise_is_not_looked_into() -> None:
    actual = SHARP.copy()
    actual[5, 6] ^= 1
    metrics = frame_metrics(0, actual, SHARP)
    noisy = picture(msgspec.structs.replace(metrics, bound=1e-3), actual, SHARP)
    assert noisy.decision is None
    assert noisy.sharpness == pytest.approx(1.0, abs=1e-3)
    assert picture(metrics, actual, SHARP).decision is not None  # without a bound nothing is noise


def test_a_flat_frame_has_no_sharpness() -> None:
    grey = np.full_like(SHARP, 90)
    assert picture(frame_metrics(0, SHARP, grey), SHARP, grey).sharpness is None


def test_runs_that_cannot_be_compared_have_no_pictures(tmp_path: Path) -> None:
    assert pictures(tmp_path, tmp_path, comparison(frames=[])) == []


def test_a_frame_that_is_gone_is_named(tmp_path: Path) -> None:
    reference = write_frames(tmp_path / "reference", SHARP)
    with pytest.raises(UserError, match=r"candidate/frames/000000\.png"):
        pictures(reference, tmp_path / "candidate", comparison(frames=[frame_metrics(0, SHARP, SHARP)]))
