"""Pictures one after another: a folder of PNGs or a video file, read one picture at a time, and two of them paired."""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.compare.video import Video
from waypoint_parity.harness.errors import UserError, listed

# Pictures that would go uncompared beside PNGs.
_OTHER_PICTURES = {
    ".apng", ".avif", ".bmp", ".exr", ".hdr", ".jpeg", ".jpg", ".jxl", ".npy", ".npz", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
}  # fmt: skip
# Where the header of a PNG tells the bits of a channel.
_DEPTH_AT = 24
# What Pillow raises for one broken file or another.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)


class PicturePair(NamedTuple):
    """A frame of both sides, each [height,width,3] uint8; None where a side does not have it."""

    name: str
    reference: Pixels | None
    candidate: Pixels | None


class PictureSequence(Protocol):
    """Pictures in their order.

    `coding` says how they were written, `timing` when they are shown: both are told where two sequences differ in them.
    `notes` are told in any case. A `lossy` coding may have changed pixels.
    """

    coding: dict[str, str]
    timing: dict[str, str]
    lossy: bool
    notes: list[str]

    def pictures(self) -> Iterator[Pixels]:
        """Every picture, read when it is asked for. Raises UserError for one that is broken."""
        ...


class PictureFolder:
    """The PNGs of a folder, in the natural order of their names: frame2 comes before frame10."""

    def __init__(self, path: Path) -> None:
        """List `path`. Raises UserError without a PNG, with pictures of another kind, and for a name given twice."""
        self._path = path
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        files = [entry for entry in entries if entry.suffix.lower() == ".png"]
        others = sorted(entry.name for entry in entries if entry not in files)
        self._files = {natural(file.stem): file for file in sorted(files, key=lambda file: natural(file.stem))}
        self._check(files, others)
        self.names = {key: file.stem.encode("utf-8", "replace").decode() for key, file in self._files.items()}
        self.coding, self.timing, self.lossy = {"codec": "png"}, dict[str, str](), False
        self.notes = [f"{path}: not compared are {listed(others)}"] if others else []

    def pictures(self) -> Iterator[Pixels]:
        """Every picture in order. Raises UserError for one that is broken or no 8-bit RGB without loss."""
        return map(read_png, self._files.values())

    def picture(self, key: "NaturalKey | None") -> Pixels | None:
        """The picture of that name; None for None. Raises UserError as `pictures` does."""
        return None if key is None else read_png(self._files[key])

    def _check(self, files: Sequence[Path], others: list[str]) -> None:
        expected, found = "PNGs, one for each frame", None
        if unread := [name for name in others if Path(name).suffix.lower() in _OTHER_PICTURES or ".png." in name]:
            found, do = f"also {listed(unread)}", "write all frames as PNG, and move anything else away"
        elif not files:
            found = f"no PNG; {listed(others)}" if others else "an empty folder"
            do = "name the folder that holds the frames, or a video file"
        elif len(self._files) < len(files):
            twice = [file.name for file in files if file not in self._files.values()]
            found = f"two files for one frame: {listed(sorted(twice))}"
            expected, do = "one name for each frame", "move one of the two away"
        if found is not None:
            raise UserError(f"{self._path}: is no folder of frames", found=found, expected=expected, do=do)


NaturalKey = tuple[str | int, ...]


def natural(name: str) -> NaturalKey:
    """What a name is ordered and paired by: its texts and numbers in turn, `frame_01` as (`frame_`, 1, ``)."""
    return tuple(int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name)))


def open_sequence(path: Path) -> "PictureFolder | Video":
    """The pictures at `path`. Raises UserError for what is neither a folder of PNGs nor a video file."""
    try:
        if path.is_dir():
            return PictureFolder(path)
        if path.is_file():
            return Video(path)
        found = "nothing there"
    except OSError as error:
        found = error.strerror or str(error)
    raise UserError(
        f"{path}: cannot be read as pictures",
        found=found,
        expected="a folder of PNGs, or a video file",
        do="correct the path",
    )


class PairedPictures:
    """The frames of two sequences in the order of the reference; `notes` say what is odd about them.

    `unlike_coding` are the notes on how they were written; `lossy`: either side may have lost something by it.

    Two folders are paired by name, where leading zeros do not count. Without a name in common they are paired by the
    one number in which a folder's names differ, counted from the first. Beside a video frames are paired by position.
    """

    def __init__(self, reference: Path, candidate: Path) -> None:
        """Open both. Raises UserError for either, and for folders whose names cannot be paired."""
        self._paths = (reference, candidate)
        self._sides = (open_sequence(reference), open_sequence(candidate))
        left, right = self._sides
        self.lossy = left.lossy or right.lossy
        self.unlike_coding = self._differing(left.coding, right.coding)
        self.notes = [*left.notes, *right.notes, *self.unlike_coding, *self._differing(left.timing, right.timing)]
        self._named: list[tuple[NaturalKey | None, NaturalKey | None]] | None = None
        if isinstance(left, PictureFolder) and isinstance(right, PictureFolder):
            self._named = self._paired_names(left, right)

    def __iter__(self) -> Iterator[PicturePair]:
        left, right = self._sides
        if self._named is not None and isinstance(left, PictureFolder) and isinstance(right, PictureFolder):
            for ours, theirs in self._named:
                name = right.names[theirs] if ours is None and theirs is not None else left.names[ours or ()]
                yield PicturePair(name, left.picture(ours), right.picture(theirs))
        else:
            for number, pair in enumerate(zip_longest(left.pictures(), right.pictures())):
                yield PicturePair(str(number), *pair)

    def _differing(self, left: dict[str, str], right: dict[str, str]) -> list[str]:
        return [
            f"{fact}: {left[fact]} in {self._paths[0]}, {right[fact]} in {self._paths[1]}"
            for fact in left
            if left[fact] != right.get(fact, left[fact])
        ]

    def _paired_names(
        self, left: PictureFolder, right: PictureFolder
    ) -> list[tuple[NaturalKey | None, NaturalKey | None]]:
        names = [list(side.names) for side in (left, right)]
        numbers = [_numbers(keys) for keys in names]
        starts = [str(next(iter(side.names.values()))) for side in (left, right)]
        if set(names[0]) & set(names[1]):
            marks = names
            if len(names[0]) == len(names[1]) and names[0][0] != names[1][0]:
                self.notes.append(
                    f"frames were paired by name, though {self._paths[0]} begins with {starts[0]} and {self._paths[1]} "
                    f"with {starts[1]}: rename the files of one side if these are the same frame"
                )
        elif numbers[0] is None or numbers[1] is None:
            raise UserError(
                "the frames cannot be paired",
                found=f"no name in common: {starts[0]} in {self._paths[0]}, {starts[1]} in {self._paths[1]}",
                expected="the same names on both sides, or names that differ in one number",
                do="rename the files of one side",
            )
        else:
            marks = [[(number - column[0],) for number in column] for column in numbers if column]
            self.notes.append(
                f"no name is in common: {starts[0]} of {self._paths[0]} was paired with {starts[1]} of "
                f"{self._paths[1]}, and so on by number"
            )
        for path, column in zip(self._paths, numbers, strict=True):
            steps = [(b - a, a, b) for a, b in pairwise(column or ())]
            if skipped := [f"after {a} comes {b}" for step, a, b in steps if step != min(steps)[0]]:
                self.notes.append(f"{path}: numbers are skipped, {listed(skipped, most=3)}")
        left_of, right_of = (dict(zip(marked, keys, strict=True)) for marked, keys in zip(marks, names, strict=True))
        return [(left_of.get(mark), right_of.get(mark)) for mark in sorted(left_of.keys() | right_of.keys())]


def _numbers(keys: Sequence[NaturalKey]) -> list[int] | None:
    """The one number in which names differ, of each; None where they differ in anything else. One name has any."""
    if len({len(key) for key in keys}) > 1:
        return None
    varying = [column for column in zip(*keys, strict=True) if len(set(column)) > 1]
    if not varying:
        return [0]
    numbers = [number for number in varying[0] if isinstance(number, int)]
    return numbers if len(varying) == 1 and len(numbers) == len(keys) else None


def read_png(path: Path) -> Pixels:
    """The pixels [height,width,3] uint8 of a PNG, as RGB.

    Raises UserError for a broken file, and for pictures that are no 8-bit RGB without loss: of 16 bits, see-through, or
    several in one file.
    """
    try:
        with path.open("rb") as file:
            depth = file.read(_DEPTH_AT + 1)[-1:]
        # Checksums of pixels are not looked at when they are decoded.
        with Image.open(path, formats=["PNG"]) as image:
            frames = getattr(image, "n_frames", 1)
            image.verify()
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
    except _BROKEN as error:
        found = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{path}: cannot be read as a PNG", found=found, expected="a whole PNG", do="write it again"
        ) from error
    unlike = None
    if frames > 1:
        unlike = f"{frames} pictures in one file"
    elif depth == b"\x10":
        unlike = "16 bits a channel"
    elif image.mode in ("LA", "RGBA") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        if (least := int(pixels[..., 3].min())) < 255:
            unlike = f"see-through pixels, with an alpha down to {least}"
    if unlike is not None:
        raise UserError(
            f"{path}: cannot be compared as RGB without loss",
            found=unlike,
            expected="one opaque picture of 8 bits a channel",
            do="write both sides so, over the same background",
        )
    return np.asarray(image.convert("RGB"))
