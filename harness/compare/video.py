"""The pictures of a video file, decoded one at a time, and whether the file holds all that it promises.

Needs the extra `video` (PyAV, which brings FFmpeg's libraries).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError

if TYPE_CHECKING:
    import av

# Playlists and their like would open further files, or the network.
_OPTIONS = {"protocol_whitelist": "file"}
# What FFmpeg reads as a video of one picture.
_STILL = ("image2", "_pipe")
# Containers whose header counts the frames, and those whose header tells when the last one ends. What FFmpeg says of
# others it found by reading as far as the file goes.
_COUNTED, _TIMED = ("mp4", "avi"), "matroska"


class Video:
    """The first video stream of a file: every frame once, in the order in which they are shown."""

    def __init__(self, path: Path) -> None:
        """Open `path` and decode its first frame. Raises UserError for a file that is no video, or not a whole one."""
        self._path = path
        with _opened(path) as (container, stream):
            self._promised = stream.frames if any(name in container.format.name for name in _COUNTED) else 0
            self._seconds = _promised_seconds(container, stream)
            first = next(container.decode(stream), None)
            if first is None:
                raise _broken(path, "a video without a frame")
            codec = stream.codec_context.codec
            self.timing = {
                "frames per second": str(stream.average_rate),
                "seconds": f"{container.duration / 1e6:.3f}" if container.duration else "unknown",
            }
            # Matrix and range by their numbers in ISO/IEC 23091-2.
            self.coding = {
                "codec": codec.name,
                "pixel format": first.format.name,
                "colour matrix": str(int(first.colorspace)),
                "colour range": str(int(first.color_range)),
                "rotation": str(first.rotation),
            }
            self.lossy, self.notes = bool(codec.lossy), list[str]()
            if self.lossy:
                coded = f"{codec.name} in {first.format.name}"
                self.notes.append(f"{path} is {coded}: its encoder may have changed pixels, or dropped differences")
            if not self._promised and self._seconds is None:
                self.notes.append(f"{path}: its container does not tell how many frames it should hold")
            if (streams := len(container.streams.video)) > 1:
                self.notes.append(f"{path}: the first of {streams} video streams was compared")

    def pictures(self) -> Iterator[Pixels]:
        """Every frame [height,width,3] uint8, as RGB.

        Raises UserError for a frame that is broken, for one that has more than 8 bits or lets something through, and
        at the end of a file that holds fewer frames than it promises.
        """
        packets = decoded = skipped = 0
        end: float | None = None
        with _opened(self._path) as (container, stream):
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _broken(self._path, f"{decoded} frames, and then a broken packet")
                packets += bool(packet.size)
                skipped += bool(packet.size and packet.is_discard)
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise _broken(self._path, f"frame {decoded} is broken")
                    if frame.time is not None:
                        end = frame.time + float((frame.duration or 0) * (frame.time_base or 0))
                    yield self._rgb(frame, decoded)
                    decoded += 1
            rate = float(stream.average_rate or 0)
        if packets < self._promised or decoded < self._promised - skipped:
            raise _broken(self._path, f"{decoded} frames of the {self._promised} that it promises")
        # Times are rounded to milliseconds: half a frame is missed by none.
        if self._seconds is not None and end is not None and rate and end < self._seconds - 0.5 / rate:
            raise _broken(self._path, f"{decoded} frames, up to second {end:.3f} of the {self._seconds:.3f} promised")

    def _rgb(self, frame: "av.VideoFrame", number: int) -> Pixels:
        if (bits := max(component.bits for component in frame.format.components)) > 8:
            raise self._unlike(f"frame {number} has {bits} bits a channel ({frame.format.name})", "8 bits a channel")
        see_through = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        if not see_through:
            return np.asarray(frame.to_ndarray(format="rgb24"))
        pixels = frame.to_ndarray(format="rgba")
        if (least := int(pixels[..., 3].min())) < 255:
            raise self._unlike(f"frame {number} is see-through, with an alpha down to {least}", "opaque pictures")
        return np.ascontiguousarray(pixels[..., :3])

    def _unlike(self, found: str, expected: str) -> UserError:
        return UserError(
            f"{self._path}: cannot be compared as RGB without loss",
            found=found,
            expected=expected,
            do="write both sides with 8 bits a channel, over the same background",
        )


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[Any, Any]]":
    """The container and its video stream; whatever FFmpeg then complains of becomes a UserError."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: a video cannot be read here",
            found=str(error),
            expected="PyAV, the extra `video`",
            do="pip install 'waypoint-parity[video]', or give folders of PNGs: ffmpeg -i FILE FOLDER/%06d.png",
        ) from error
    try:
        # An open file, because FFmpeg takes some names for patterns and addresses.
        with path.open("rb") as file, av.open(file, options=_OPTIONS, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is not None and stream.codec_context is None:
                raise _broken(path, "a codec that cannot be decoded here")
            if stream is None or any(word in container.format.name for word in _STILL):
                raise UserError(
                    f"{path}: is no video",
                    found=f"a file of format {container.format.name}",
                    expected="a folder of PNGs, or a video file",
                    do="give the folder that holds the frames, or a video file",
                )
            # A decoder that finds an error then says so, instead of making up what is lost.
            stream.codec_context.options = {"err_detect": "explode"}
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from error


def _promised_seconds(container: Any, stream: Any) -> float | None:
    """When the last frame ends, by a header that tells the time; None where there is none."""
    if _TIMED not in container.format.name:
        return None
    if told := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])
    # The container's time is that of its longest stream.
    return float(container.duration / 1e6) if container.duration and len(container.streams) == 1 else None


def _broken(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: cannot be read as a whole video", found=found, expected="a whole video file", do="write it again"
    )
