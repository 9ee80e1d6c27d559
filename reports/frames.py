"""The page of a comparison of frames alone: verdict, floor, curves, and the pictures side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from waypoint_parity.harness.compare.picture_sequences import PairedPictures, PicturePair
from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.judge.frames import FrameResult, FramesComparison
from waypoint_parity.reports.gallery import BUDGET, WIDTHS, amplified, lossy
from waypoint_parity.reports.page import rendered
from waypoint_parity.reports.pictures import MEASURES
from waypoint_parity.reports.plots import CurvePlot
from waypoint_parity.reports.report import HTML_NAME
from waypoint_parity.reports.table import Table
from waypoint_parity.reports.view import picture_says

# Frames that are shown, and those of the curves and the table: long sessions show as many, evenly.
_SHOWN, _ROWS = 24, 500
_Measure = Callable[[FrameResult], float | None]
# Label, whether its axis is logarithmic, and the value of a frame.
_CURVES: tuple[tuple[str, bool, _Measure], ...] = (
    ("1 - SSIM", True, lambda at: None if at.ssim is None else 1 - at.ssim),
    ("mean |d|, levels of 255", True, lambda at: at.mean_abs),
    ("PSNR, dB", False, lambda at: at.psnr),
    ("sharpness over the reference's", False, lambda at: at.sharpness),
)


@dataclass(frozen=True)
class FramesView:
    """One pair of runs in the page: the candidate's, or that of the floor. `shown` is what the script shows of it."""

    number: int
    name: str
    table: Table
    curves: list[str]
    shown: dict[str, Any]


def write_frames_report(
    comparison: FramesComparison, reference: Path, candidate: Path, floor: Path | None, out: Path
) -> Path:
    """Write report.html and the exact pictures that it shows into the folder `out`; returns the page.

    `reference`, `candidate` and `floor` are what was compared: they are read once more. Raises UserError for a picture
    that cannot be read, and where nothing can be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    places, budget = comparison.chosen(_SHOWN), BUDGET // (1 if floor is None else 2)
    second = {} if comparison.floor is None else {at.frame: at for at in comparison.floor.frames}
    name = f"{comparison.candidate} against {comparison.reference}"
    rows = [comparison.frames[place] for place in comparison.chosen(_ROWS)]
    pictures = _Pictures(out, "candidate", budget // len(places))
    shown = pictures.shown(PairedPictures(reference, candidate), [comparison.frames[place] for place in places])
    views = [_view(0, name, rows, shown, second)]
    if comparison.floor is not None and floor is not None:
        names = {comparison.frames[place].frame for place in places}
        own = [at for at in comparison.floor.frames if at.frame in names]
        shown = _Pictures(out, "second-run", budget // len(places)).shown(PairedPictures(reference, floor), own)
        title = f"{comparison.floor.second} against {comparison.reference}, the floor"
        views.append(_view(1, title, [second[at.frame] for at in rows if at.frame in second], shown, {}))
    text = rendered(
        "frames.html.j2",
        script="report.js",
        style="report.css",
        comparison=comparison,
        views=views,
        focus=views[0],
        failing=None if comparison.first is None else comparison.frames[comparison.first],
        missing=[at for at in comparison.frames if at.mean_abs is None],
        shown=[each.shown for each in views],
    )
    with replacing(out / HTML_NAME) as partial:
        partial.write_text(text, "utf-8")
    return out / HTML_NAME


class _Pictures:
    """The pictures of one pair of runs: the exact ones go into files, lossy ones into the page."""

    def __init__(self, out: Path, side: str, budget: int) -> None:
        """`side`: what the folder of the second side's pictures is called; `budget`: bytes of a frame in the page."""
        self._out, self._side, self._budget = out, side, budget

    def shown(self, pairs: PairedPictures, frames: Sequence[FrameResult]) -> dict[str, Any]:
        """What the script shows of `frames`, which are some of `pairs`; the worst is shown first."""
        found = {at.frame: at for at in frames if at.mean_abs is not None}
        entries: list[dict[str, Any]] = []
        for pair in pairs:
            if (at := found.get(pair.name)) is not None:
                entries.append(self._entry(len(entries), pair, at))
        errors = [found[entry["label"]].mean_abs or 0.0 for entry in entries]
        return {"worst": max(range(len(errors)), key=errors.__getitem__, default=0), "shown": entries}

    def _entry(self, number: int, pair: PicturePair, at: FrameResult) -> dict[str, Any]:
        assert pair.reference is not None
        assert pair.candidate is not None
        exact = {"reference": pair.reference, "candidate": pair.candidate}
        links = {}
        for name, pixels in exact.items():
            folder = self._side if name == "candidate" else "reference"
            links[name] = f"pictures/{folder}/{number:06d}.png"
            with writing(self._out / links[name]):
                (self._out / links[name]).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(self._out / links[name])
        height, width, _ = pair.reference.shape
        gain, difference = amplified(pair.candidate, pair.reference)
        return {
            "label": at.frame,
            "name": at.called,
            "gain": gain,
            "aspect": width / height,
            "links": links,
            "pictures": self._lossy(exact | {"difference": difference}),
            "says": picture_says(_row(at)),
            "differs": not at.verdict.passes,
        }

    def _lossy(self, exact: dict[str, Any]) -> dict[str, str]:
        """The pictures at the largest width that the budget holds; none where none does."""
        for width in WIDTHS:
            shown = {name: lossy(pixels, width) for name, pixels in exact.items()}
            if sum(map(len, shown.values())) <= self._budget:
                return shown
        return {}


def _view(
    number: int, name: str, frames: Sequence[FrameResult], shown: dict[str, Any], second: dict[str, FrameResult]
) -> FramesView:
    """`second`: frames of the second run of the reference, drawn beside those that are measured."""
    marks = {(place, "verdict"): "bad" for place, at in enumerate(frames) if not at.verdict.passes}
    table = Table.of([_row(at) for at in frames], MEASURES | {"bound": "{:.4g}".format}, marks)
    return FramesView(number, name, table, _curves(frames, second, f"f{number}"), {"name": name, **shown})


def _curves(frames: Sequence[FrameResult], second: dict[str, FrameResult], prefix: str) -> list[str]:
    """A plot of every measure that any frame has. Beside the mean difference its bound is drawn."""
    drawn = []
    for number, (label, logarithmic, of) in enumerate(_CURVES):
        values = [of(at) for at in frames]
        if label.startswith("mean"):
            floor = [at.bound for at in frames]
        else:
            floor = [of(second[at.frame]) if at.frame in second else None for at in frames]
        if any(value is not None for value in values):
            plot = CurvePlot(label, logarithmic=logarithmic)
            drawn.append(plot.svg([at.frame for at in frames], values, floor, f"{prefix}-{number}"))
    return drawn


def _row(at: FrameResult) -> dict[str, Any]:
    row = {
        "frame": at.frame,
        "SSIM": at.ssim,
        "mean |d|": at.mean_abs,
        "max |d|": at.max_abs,
        "PSNR dB": at.psnr,
        "sharpness": at.sharpness,
        "differs by": at.differs_by,
        "bound": at.bound,
        "verdict": str(at.verdict),
    }
    return row if at.note is None else row | {"verdict": f"{at.verdict}: {at.note}"}
