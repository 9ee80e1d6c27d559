"""The decoded pictures as a page shows them: lossy pictures inside it, the exact ones beside it."""

import base64
import io
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from waypoint_parity.harness.compare.pictures import Pixels, read_pixels
from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.reports.run import SIDES, CellReport, FinishedRun

# Bytes of all pictures in a page, as text: the rest of 15 MB is for its tables and plots.
BUDGET = 9 << 20
# Widths of a picture: the cell in focus gets the first, the others the first that fits the budget.
WIDTHS = (640, 320, 214, 128)
# Of the name above a picture of a strip, pixels.
_CAPTION = 22
# A difference is shown this many times as large at most.
MOST_GAIN = 128
# The share of values that the amplified difference may cut off.
_CUT = 0.001


@dataclass(frozen=True)
class ShownPicture:
    """One picture: the links to the exact ones of both sides, and the lossy ones, by what they show.

    `pictures` are data URIs of "reference", "candidate" and "difference" (`gain` times as large); empty where the
    budget was used up.
    """

    at: PictureAt
    links: dict[str, str]
    gain: int
    pictures: dict[str, str] = field(default_factory=dict)
    aspect: float = 16 / 9


class Gallery:
    """The pictures of a run's cells within one budget of bytes: the focus first, the others evenly."""

    def __init__(self, page: Path, run: FinishedRun, budget: int = BUDGET) -> None:
        """`page`: the file that will show them. One outside of the run's folder gets copies of the exact pictures."""
        focus = run.focus
        self._page = page.resolve()
        inside = self._page.is_relative_to(run.folder.resolve())
        self._copies = None if inside else page.parent / f"{page.stem}-pictures"
        self._left = budget
        self._waiting = sum(len(cell.pictures) for cell in run.cells if cell is not focus)
        self._focus = focus
        self._widths: tuple[int, ...] = WIDTHS[1:]

    def shown(self, cell: CellReport) -> list[ShownPicture]:
        """The pictures of a cell. Raises UserError for one that cannot be read."""
        return [self._picture(cell, at) for at in cell.pictures]

    def _picture(self, cell: CellReport, at: PictureAt) -> ShownPicture:
        paths = {side: cell.picture(side, at) for side in SIDES}
        links = {side: self._link(cell, side, path) for side, path in paths.items()}
        exact = {side: read_pixels(path) for side, path in paths.items()}
        if exact["reference"].shape != exact["candidate"].shape:
            return ShownPicture(at, links, 1)
        gain, difference = amplified(exact["candidate"], exact["reference"])
        shown = self._lossy(cell, exact | {"difference": difference})
        height, width, _ = exact["reference"].shape
        return ShownPicture(at, links, gain, shown, width / height)

    def _link(self, cell: CellReport, side: str, exact: Path) -> str:
        """The way from the page to an exact picture, or to its copy."""
        if self._copies is not None:
            copy = self._copies / cell.folder.name / side / exact.name
            with writing(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(exact, copy)
            exact = copy
        return quote(os.path.relpath(exact.resolve(), self._page.parent))

    def _lossy(self, cell: CellReport, exact: dict[str, Pixels]) -> dict[str, str]:
        """The lossy pictures at the largest width that leaves as much for every one that waits, none if none does."""
        share = self._left if cell is self._focus else self._left // max(1, self._waiting)
        self._waiting -= cell is not self._focus
        widths = WIDTHS[:1] if cell is self._focus else self._widths
        for used_up, width in enumerate(widths, start=1):
            shown = {name: lossy(pixels, width) for name, pixels in exact.items()}
            size = sum(map(len, shown.values()))
            if size <= share:
                self._left -= size
                return shown
            self._widths = widths[used_up:]
        return {}


def amplified(actual: Pixels, expected: Pixels) -> tuple[int, Pixels]:
    """The absolute difference [height,width,3], and how many times as large as it is: a power of two."""
    difference = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    highest = max(1.0, float(np.quantile(difference[::8, ::8], 1 - _CUT)))
    gain = 1
    while gain < MOST_GAIN and 2 * gain * highest <= 255:
        gain *= 2
    return gain, (difference * gain).clip(0, 255).astype(np.uint8)


def write_strip(cell: CellReport, at: PictureAt, path: Path) -> None:
    """Write one picture of both sides and their amplified difference, beside each other under their names."""
    sides = {side: read_pixels(cell.picture(side, at)) for side in SIDES}
    gain, difference = amplified(sides["candidate"], sides["reference"])
    shown = {name: _narrowed(pixels, WIDTHS[0]) for name, pixels in sides.items()}
    shown[f"difference x{gain}"] = _narrowed(difference, WIDTHS[0])
    width, height = shown["reference"].size
    strip = Image.new("RGB", (len(shown) * width, _CAPTION + height), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    for place, (name, image) in enumerate(shown.items()):
        draw.text((place * width + 4, 2), name, "black", font)
        strip.paste(image, (place * width, _CAPTION))
    with replacing(path) as partial:
        strip.save(partial, "WEBP", quality=80)


def _narrowed(pixels: Pixels, width: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if width >= image.width:
        return image
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.BOX)


def lossy(pixels: Pixels, width: int) -> str:
    """A data URI of `pixels` at a width, which is for showing only."""
    image = _narrowed(pixels, width)
    buffer = io.BytesIO()
    # WebP is as large, of noise, and takes five times as long.
    image.save(buffer, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
