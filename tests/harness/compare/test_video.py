import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.frame_files import INDEX_FIRST, cut, session, write_video
from waypoint_parity.harness.compare.picture_sequences import PairedPictures
from waypoint_parity.harness.compare.video import Video
from waypoint_parity.harness.errors import UserError

FRAMES = session(8, size=(36, 64))
FFV1 = {"codec": "ffv1", "pixel_format": "bgr0", "options": {"slices": "4"}}
H264 = {"codec": "libx264", "pixel_format": "yuv420p", "options": {"crf": "20"}}


def refusal(path: Path) -> str:
    """What was found in a video that is refused, by name, at some point of reading it."""
    with pytest.raises(UserError) as refused:
        list(Video(path).pictures())
    assert str(path) in refused.value.what
    return refused.value.found


@pytest.mark.parametrize(("name", "coding"), [("a.mp4", {}), ("a.mkv", FFV1), ("a.avi", FFV1)])
def test_the_frames_of_a_video_without_loss_are_its_pictures(name: str, coding: Any, tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / name, FRAMES, **coding))
    # Twice: a page reads a video again.
    for _ in range(2):
        assert all(np.array_equal(*pair) for pair in zip(video.pictures(), FRAMES, strict=True))


def test_a_lossy_video_says_so(tmp_path: Path) -> None:
    (note,) = Video(write_video(tmp_path / "a.mp4", FRAMES, **H264)).notes
    assert "h264 in yuv420p" in note
    assert Video(write_video(tmp_path / "a.mkv", FRAMES, **FFV1)).notes == []


@pytest.mark.parametrize(
    ("name", "coding"),
    [("a.mp4", {}), ("index-first.mp4", {"container": INDEX_FIRST}), ("a.mkv", FFV1), ("a.avi", FFV1)],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_video_that_is_cut_off_never_passes_as_a_shorter_one(
    name: str, coding: Any, share: float, tmp_path: Path
) -> None:
    refusal(cut(write_video(tmp_path / name, FRAMES, **coding), share))


def test_a_broken_packet_is_told_with_the_frames_before_it(tmp_path: Path) -> None:
    found = refusal(cut(write_video(tmp_path / "a.avi", FRAMES, **FFV1), 0.6))
    assert re.match("[34] frames, and then", found)


@pytest.mark.parametrize(("name", "coding"), [("a.mkv", FFV1), ("a.mp4", {"container": INDEX_FIRST})])
def test_a_video_without_its_last_packets_is_known_by_what_its_header_promises(
    name: str, coding: Any, tmp_path: Path
) -> None:
    """The file ends between two packets, so that nothing but the header tells."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    file = write_video(tmp_path / name, FRAMES, **coding)
    with av.open(str(file)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    file.write_bytes(file.read_bytes()[: sorted(positions)[5]])
    assert "5 frames" in (found := refusal(file))
    assert "promise" in found


def test_other_files_are_no_videos(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    for name, content in (("text.mp4", b"no video"), ("empty.mp4", b""), ("zeros.mkv", bytes(5000))):
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)


def test_a_single_picture_is_no_video(tmp_path: Path) -> None:
    from PIL import Image

    pytest.importorskip("av", reason="PyAV is not installed")
    Image.fromarray(FRAMES[0]).save(tmp_path / "0.png")
    refusal(tmp_path / "0.png")


def test_what_would_lose_something_as_rgb_is_refused(tmp_path: Path) -> None:
    deep = write_video(tmp_path / "deep.mkv", FRAMES, **{**FFV1, "pixel_format": "yuv420p10le"})
    assert "10 bits" in refusal(deep)


def test_a_video_with_an_alpha_that_hides_nothing_is_read(tmp_path: Path) -> None:
    video = Video(write_video(tmp_path / "a.mkv", FRAMES, **{**FFV1, "pixel_format": "bgra"}))
    assert all(np.array_equal(*pair) for pair in zip(video.pictures(), FRAMES, strict=True))


def test_other_rates_and_codings_are_told(tmp_path: Path) -> None:
    left = write_video(tmp_path / "left.mp4", FRAMES)
    right = write_video(tmp_path / "right.mp4", FRAMES, rate=24)
    told = " ".join(PairedPictures(left, right).notes)
    assert "frames per second: 16" in told
    assert "seconds: 0.500" in told
    coded = PairedPictures(left, write_video(tmp_path / "right.mkv", FRAMES, **FFV1))
    assert any(note.startswith("codec: h264") for note in coded.unlike_coding)
