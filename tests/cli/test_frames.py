import json
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.cli.conftest import PARTS, refused, run, script
from tests.harness.frame_files import INDEX_FIRST, cut, session, write_folder, write_video
from waypoint_parity.harness.compare.pictures import Pixels

FRAMES = session(6)
# Off by up to 9 levels from frame 3 on.
WRONG = [*FRAMES[:3], *session(6, noise=9)[3:]]


def mean_difference(frames: Sequence[Pixels]) -> float:
    return float(np.mean([np.abs(ours - theirs.astype(int)) for ours, theirs in zip(frames, FRAMES, strict=True)]))


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "vendor", FRAMES)


@pytest.fixture
def port(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "port", WRONG)


# --- two folders


def test_equal_folders_hold(vendor: Path, tmp_path: Path) -> None:
    outcome = run("frames", vendor, write_folder(tmp_path / "same", FRAMES))
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("IDENTICAL: same against vendor\n")


def test_without_a_bound_any_difference_fails_and_the_first_frame_is_named(vendor: Path, port: Path) -> None:
    outcome = run("frames", vendor, port)
    assert outcome.code == 1
    assert outcome.out.startswith("DIVERGED: port against vendor\n  first to fail: frame 000003: ")
    rows = [line.split() for line in outcome.out.splitlines()[-6:]]
    assert [(row[0], row[-1]) for row in rows] == [
        (f"{number:06d}", "IDENTICAL" if number < 3 else "DIVERGED") for number in range(6)
    ]


def test_a_bound_decides(vendor: Path, port: Path) -> None:
    assert run("frames", vendor, port, "--bound", 9).code == 0
    assert run("frames", vendor, port, "--bound", 1).code == 1
    assert refused("frames", vendor, port, "--bound", "nan")["found"] == "nan"


def test_a_second_run_of_the_reference_is_the_floor(vendor: Path, port: Path, tmp_path: Path) -> None:
    second = session(6, noise=2, seed=1)
    again = write_folder(tmp_path / "again", second)
    outcome = run("frames", vendor, port, "--floor", again)
    assert outcome.code == 1
    ours, own = (mean_difference(frames) for frames in (WRONG, second))
    assert f"vendor against again {own:.4g}, port {ours:.4g}, {ours / own:.2g} times the floor" in outcome.out
    close = write_folder(tmp_path / "close", [*FRAMES[:4], *session(6, noise=1, seed=2)[4:]])
    assert run("frames", vendor, close, "--floor", again).code == 0


@pytest.mark.parametrize("absent", [0, 2, 5])
def test_a_missing_frame_and_an_additional_one_fail_by_name(vendor: Path, absent: int, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", FRAMES)
    (other / f"{absent:06d}.png").unlink()
    for sides in ((vendor, other), (other, vendor)):
        outcome = run("frames", *sides, "--bound", 255)
        assert outcome.code == 1
        assert outcome.out.startswith("MISSING: ")
        assert f"first to fail: frame {absent:06d}: other does not have it" in outcome.out


def test_a_broken_png_is_named(vendor: Path, port: Path) -> None:
    broken = cut(port / "000004.png", 0.7)
    assert refused("frames", vendor, port, "--bound", 255)["what"] == f"{broken}: cannot be read as a PNG"


def test_folders_without_frames_are_refused(vendor: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused("frames", vendor, tmp_path / "empty")["found"] == "an empty folder"
    assert refused("frames", vendor, tmp_path / "nowhere")["what"].startswith(f"{tmp_path}/nowhere: ")


def test_a_folder_is_not_compared_with_itself(vendor: Path) -> None:
    refused("frames", vendor, vendor)


# --- two videos


def test_equal_videos_hold_and_others_do_not(tmp_path: Path) -> None:
    vendor, same, port = (
        write_video(tmp_path / f"{name}.mp4", frames)
        for name, frames in (("vendor", FRAMES), ("same", FRAMES), ("port", WRONG))
    )
    assert run("frames", vendor, same).code == 0
    outcome = run("frames", vendor, port)
    assert outcome.code == 1
    assert "first to fail: frame 3: " in outcome.out
    assert run("frames", vendor, port, "--bound", 9).code == 0


def test_a_shorter_video_fails_at_the_first_frame_that_it_lacks(tmp_path: Path) -> None:
    vendor, short = (
        write_video(tmp_path / name, frames) for name, frames in (("a.mp4", FRAMES), ("b.mp4", FRAMES[:4]))
    )
    for sides in ((vendor, short), (short, vendor)):
        outcome = run("frames", *sides, "--bound", 255)
        assert outcome.code == 1
        assert "first to fail: frame 4: b.mp4 does not have it" in outcome.out


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_broken_video_is_named(share: float, tmp_path: Path) -> None:
    vendor = write_video(tmp_path / "vendor.mp4", FRAMES)
    for name, container in (("index-first", INDEX_FIRST), ("index-last", {})):
        port = cut(write_video(tmp_path / f"{name}.mp4", FRAMES, container=container), share)
        for sides in ((vendor, port), (port, vendor)):
            assert refused("frames", *sides)["what"] == f"{port}: cannot be read as a whole video"


def test_a_floor_of_another_coding_is_none(tmp_path: Path) -> None:
    vendor, port = (write_video(tmp_path / f"{name}.mp4", FRAMES) for name in "ab")
    lossy = write_video(tmp_path / "c.mp4", FRAMES, codec="libx264", pixel_format="yuv420p", options={"crf": "40"})
    assert "pixel format" in refused("frames", vendor, port, "--floor", lossy)["found"]


def test_without_the_extra_the_line_that_installs_it_is_given_and_folders_need_none(
    vendor: Path, port: Path, tmp_path: Path
) -> None:
    """A module of the same name that cannot be imported lies before the real one."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "av.py").write_text("raise ImportError('No module named av')")
    path = os.pathsep.join([str(tmp_path / "first"), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"a video")
    outcome = script("frames", tmp_path / "a.mp4", tmp_path / "b.mp4", env={**os.environ, "PYTHONPATH": path})
    message = PARTS.fullmatch(outcome.err)
    assert (outcome.code, bool(message)) == (2, True), outcome
    assert message is not None
    assert "pip install 'waypoint-parity[video]'" in message["do"]
    assert script("frames", vendor, port, env={**os.environ, "PYTHONPATH": path}).code == 1


# --- what it writes


def test_json_and_junit_hold_every_frame(vendor: Path, port: Path, tmp_path: Path) -> None:
    (port / "000005.png").unlink()
    outcome = run("frames", vendor, port, "--json", tmp_path / "f.json", "--junit", tmp_path / "f.xml")
    assert outcome.code == 1
    found = json.loads((tmp_path / "f.json").read_text())
    assert (found["schema"], found["verdict"], found["first"]) == ("waypoint-parity/frames/1", "DIVERGED", 3)
    assert [frame["frame"] for frame in found["frames"]] == [f"{number:06d}" for number in range(6)]
    fourth = np.abs(WRONG[3].astype(int) - FRAMES[3])
    assert found["frames"][3]["mean_abs"] == pytest.approx(fourth.mean())
    assert found["frames"][3]["max_abs"] == fourth.max()
    assert {"ssim", "psnr", "sharpness"} <= found["frames"][3].keys()
    assert found["frames"][5]["verdict"] == "MISSING"
    (suite,) = ElementTree.parse(tmp_path / "f.xml").getroot()
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert (suite.get("tests"), failed) == ("7", ["verdict", "frame 000003", "frame 000004", "frame 000005"])


def test_the_page_and_the_exact_pictures_that_it_shows_are_written(vendor: Path, port: Path, tmp_path: Path) -> None:
    outcome = run("frames", vendor, port, "--out", tmp_path / "out")
    assert outcome.code == 1, outcome
    assert (tmp_path / "out" / "report.html").is_file()
    for side, of in (("reference", vendor), ("candidate", port)):
        assert len(list((tmp_path / "out" / "pictures" / side).iterdir())) == len(list(of.iterdir()))


def test_what_cannot_be_written_is_told(vendor: Path, port: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option in ("--json", "--junit", "--out"):
        place = tmp_path / "file" / "below"
        assert refused("frames", vendor, port, option, place)["what"] == f"{place}: cannot be written"
