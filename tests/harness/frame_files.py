"""Pictures of a session as files: a folder of PNGs, or a video without loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waypoint_parity.harness.compare.pictures import Pixels

# The index comes first, so that a file that is cut off still opens.
INDEX_FIRST = {"movflags": "faststart"}


def session(count: int = 4, *, noise: int = 0, seed: int = 0, size: tuple[int, int] = (24, 32)) -> list[Pixels]:
    """Frames [height,width,3] that all differ, each off by up to `noise` levels."""
    scene, draw = np.random.default_rng(7).integers(60, 190, (*size, 3)), np.random.default_rng(seed)
    frames = [np.roll(scene, 3 * number, axis=1) for number in range(count)]
    return [(frame + draw.integers(-noise, noise + 1, frame.shape)).astype(np.uint8) for frame in frames]


def write_folder(folder: Path, frames: Sequence[Pixels], names: str = "{:06d}.png") -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / names.format(number))
    return folder


def write_video(
    path: Path,
    frames: Sequence[Pixels],
    *,
    codec: str = "libx264rgb",
    pixel_format: str = "rgb24",
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    rate: int = 16,
) -> Path:
    """A video of `frames`: without loss unless another codec is named. Skips where PyAV is not installed."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w", options=dict(container or {})) as file:
        stream = file.add_stream(codec, rate=rate, options=dict(options or {"qp": "0"}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """The file, cut off behind that share of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path
