import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.harness.frame_files import cut, session, write_folder, write_video
from waypoint_parity.harness.compare.picture_sequences import PairedPictures, natural, open_sequence, read_png
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError

PICTURE: Pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
OPAQUE = np.full((5, 7), 255, np.uint8)


def names_of(pairs: PairedPictures) -> list[tuple[str, bool, bool]]:
    """The name of each pair, and which side has it."""
    return [(name, reference is not None, candidate is not None) for name, reference, candidate in pairs]


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as refused:
        list(open_sequence(path).pictures())
    assert str(path) in refused.value.what
    return refused.value


def raw_png(path: Path, rows: "np.ndarray[Any, Any]", depth: int, *, before_pixels: bytes = b"") -> Path:
    """An RGB PNG of 8 or 16 bits, byte by byte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    end = chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before_pixels + end)
    return path


# --- order and pairs


def test_names_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    assert sorted(["frame10", "frame2", "frame1"], key=natural) == ["frame1", "frame2", "frame10"]
    frames = session(12)
    folder = write_folder(tmp_path / "frames", frames, "frame{}.png")
    assert all(np.array_equal(*pair) for pair in zip(open_sequence(folder).pictures(), frames, strict=True))


def test_frames_are_paired_by_name_and_leading_zeros_do_not_count(tmp_path: Path) -> None:
    short = write_folder(tmp_path / "a", session(11), "f{}.png")
    padded = write_folder(tmp_path / "b", session(11), "f{:05d}.png")
    pairs = PairedPictures(short, padded)
    assert all(np.array_equal(reference, candidate) for _, reference, candidate in pairs)  # type: ignore[arg-type]
    assert pairs.notes == []


@pytest.mark.parametrize("absent", [0, 1, 3])
def test_a_frame_that_one_side_lacks_leaves_the_other_pairs_as_they_are(absent: int, tmp_path: Path) -> None:
    whole, other = (write_folder(tmp_path / name, session(4)) for name in "ab")
    (other / f"{absent:06d}.png").unlink()
    assert names_of(PairedPictures(whole, other)) == [(f"{n:06d}", True, n != absent) for n in range(4)]
    assert names_of(PairedPictures(other, whole)) == [(f"{n:06d}", n != absent, True) for n in range(4)]


def test_other_names_are_paired_by_number_from_the_first_and_that_is_told(tmp_path: Path) -> None:
    frames = session(4)
    left = write_folder(tmp_path / "a", frames, "{}.png")
    right = write_folder(tmp_path / "b", [frames[0], *frames], "out_{:03d}.png")
    (right / "out_000.png").unlink()
    pairs = PairedPictures(left, right)
    assert all(np.array_equal(reference, candidate) for _, reference, candidate in pairs)  # type: ignore[arg-type]
    assert any("out_001" in note for note in pairs.notes)
    (right / "out_003.png").unlink()
    assert names_of(PairedPictures(left, right)) == [(str(n), True, n != 2) for n in range(4)]


def test_a_folder_that_begins_with_another_number_is_paired_by_name_and_that_is_told(tmp_path: Path) -> None:
    left = write_folder(tmp_path / "a", session(3))
    right = write_folder(tmp_path / "b", session(4))
    (right / "000000.png").unlink()
    pairs = PairedPictures(left, right)
    assert [found for _, *found in names_of(pairs)] == [[True, False], [True, True], [True, True], [False, True]]
    assert any("000001" in note for note in pairs.notes)


def test_names_without_a_common_number_cannot_be_paired(tmp_path: Path) -> None:
    left = write_folder(tmp_path / "a", session(2))
    right = write_folder(tmp_path / "b", session(2), "take{0}_{0}.png")
    with pytest.raises(UserError, match="cannot be paired"):
        PairedPictures(left, right)


def test_numbers_that_both_sides_skip_are_told(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, session(5)) for name in "ab"]
    for folder in folders:
        (folder / "000002.png").unlink()
    pairs = PairedPictures(*folders)
    assert sum("after 1 comes 3" in note for note in pairs.notes) == 2


def test_every_tenth_frame_skips_nothing(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name, session(3), "{}0.png") for name in "ab"]
    assert PairedPictures(*folders).notes == []


def test_a_folder_and_a_video_are_paired_by_position(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", session(3))
    video = write_video(tmp_path / "b.mp4", session(4))
    pairs = PairedPictures(folder, video)
    assert names_of(pairs) == [("0", True, True), ("1", True, True), ("2", True, True), ("3", False, True)]
    assert all(np.array_equal(a, b) for _, a, b in pairs if a is not None and b is not None)


# --- what is no folder of frames


def test_an_empty_folder_and_one_whose_frames_lie_deeper_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    refusal(tmp_path / "dump")
    write_folder(tmp_path / "dump" / "frames", session(1))
    assert "frames" in refusal(tmp_path / "dump").found


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["000002.jpg", "000002.png.partial", "000002.webp", "000002.npy"])
def test_a_frame_in_another_format_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", session(2))
    (folder / name).touch()
    assert name in refusal(folder).found


def test_two_files_for_one_frame_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", session(2))
    (folder / "0001.png").write_bytes((folder / "000001.png").read_bytes())
    assert refusal(folder).expected == "one name for each frame"


def test_other_files_are_told_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", session(2))
    (folder / "manifest.json").touch()
    (folder / "._000000.png").touch()
    (note,) = open_sequence(folder).notes
    assert "manifest.json" in note
    assert len(list(open_sequence(folder).pictures())) == 2


# --- pixels


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(PICTURE), PICTURE),
        (Image.fromarray(np.dstack([PICTURE, OPAQUE])), PICTURE),
        (Image.fromarray(PICTURE[..., 0]), PICTURE[..., :1].repeat(3, 2)),
        (Image.fromarray(np.dstack([PICTURE[..., 0], OPAQUE])), PICTURE[..., :1].repeat(3, 2)),
        (Image.fromarray(PICTURE[..., 0] > 100), 255 * (PICTURE[..., :1] > 100).repeat(3, 2)),
        (Image.fromarray(PICTURE).quantize(8), np.asarray(Image.fromarray(PICTURE).quantize(8).convert("RGB"))),
    ],
    ids=["RGB", "RGBA", "grey", "grey and alpha", "black and white", "palette"],
)
def test_what_becomes_rgb_without_loss_is_read(image: Image.Image, expected: Pixels, tmp_path: Path) -> None:
    image.save(tmp_path / "0.png")
    found = read_png(tmp_path / "0.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def see_through(path: Path) -> None:
    Image.fromarray(np.dstack([PICTURE, OPAQUE - 1])).save(path)


def see_through_entry(path: Path) -> None:
    Image.fromarray(PICTURE).quantize(8).save(path, transparency=0)


def see_through_colour(path: Path) -> None:
    key = b"tRNS" + struct.pack(">HHH", *map(int, PICTURE[0, 0]))
    raw_png(path, PICTURE, 8, before_pixels=struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)))


def deep_grey(path: Path) -> None:
    Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257).save(path)


def deep_rgb(path: Path) -> None:
    raw_png(path, PICTURE.astype(">u2") * 257, 16)


def animated(path: Path) -> None:
    Image.fromarray(PICTURE).save(path, save_all=True, append_images=[Image.fromarray(255 - PICTURE)])


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (see_through, "alpha down to 254"),
        (see_through_entry, "alpha down to 0"),
        (see_through_colour, "alpha down to 0"),
        (deep_grey, "16 bits"),
        (deep_rgb, "16 bits"),
        (animated, "2 pictures"),
    ],
)
def test_what_would_lose_something_as_rgb_is_refused(write: Any, found: str, tmp_path: Path) -> None:
    write(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"0\.png: cannot be compared as RGB") as refused:
        read_png(tmp_path / "0.png")
    assert found in refused.value.found


def test_a_broken_png_is_refused_by_name(tmp_path: Path) -> None:
    whole = write_folder(tmp_path / "whole", session(1)) / "000000.png"
    content = whole.read_bytes()
    middle = content.index(b"IDAT") + 40
    broken = {
        "cut": content[:-200],
        "without an end": content[:-12],
        "one bit of the pixels": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "nothing": b"",
        "text": b"no picture",
    }
    for name, content in broken.items():
        file = tmp_path / f"{name}.png"
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.png: cannot be read as a PNG"):
            read_png(file)
    Image.fromarray(PICTURE).save(tmp_path / "jpeg.png", "JPEG")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name in ("jpeg", "folder", "link"):
        with pytest.raises(UserError, match=f"{name}.png: cannot be read as a PNG"):
            read_png(tmp_path / f"{name}.png")


def test_a_broken_frame_in_the_middle_is_found(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", session(3))
    cut(folder / "000001.png", 0.5)
    with pytest.raises(UserError, match=r"000001\.png"):
        list(open_sequence(folder).pictures())
