"""What became of the decoded frames of a cell: measures of every frame, their floor, and what tells them apart."""

from collections.abc import Callable
from typing import Any, NamedTuple

from waypoint_parity.harness.compare.pictures import FrameMetrics
from waypoint_parity.harness.explain.investigation.result import Investigation, Picture, PictureFloor
from waypoint_parity.reports.plots import CurvePlot, trajectory_plot
from waypoint_parity.reports.run import CellReport
from waypoint_parity.reports.table import Table, fixed, scientific

_MEASURES: dict[str, Callable[[Any], str]] = {
    "SSIM": fixed(6),
    "mean |d|": "{:.4g}".format,
    "PSNR dB": fixed(1),
    "sharpness": fixed(4),
    "edge width": fixed(3),
    "noise": fixed(2),
    "gain": fixed(3),
    "likeness": fixed(4),
}


class _Measure(NamedTuple):
    """What a curve shows of a picture, and of its floor."""

    label: str
    logarithmic: bool
    of: Callable[[Picture], float | None]
    of_floor: Callable[[PictureFloor], float]


_CURVES = (
    _Measure("1 - SSIM", True, lambda at: 1 - at.metrics.ssim, lambda floor: 1 - floor.ssim),
    _Measure("mean |d|, levels of 255", True, lambda at: at.metrics.mean_abs, lambda floor: floor.mean_abs),
    _Measure("PSNR, dB", False, lambda at: at.metrics.psnr, lambda floor: floor.psnr),
    _Measure("sharpness over the reference's", False, lambda at: at.sharpness, lambda floor: floor.sharpness),
)


def pictures_of(cell: CellReport) -> list[Picture]:
    """The pictures of an investigation; without one what the comparison measured: no sharpness and no floor."""
    if cell.investigation is not None:
        return cell.investigation.pictures
    return [Picture(metrics=metrics, sharpness=None) for metrics in cell.comparison.frames]


def pictures_table(cell: CellReport) -> Table:
    """Every frame: its measures, and the blur decision with what it rests on."""
    return Table.of([_row(picture) for picture in pictures_of(cell)], _MEASURES, _blurred(cell))


class Curves:
    """The curves of a cell's frames: lost SSIM, mean difference, PSNR and sharpness, with the floor of each."""

    def __init__(self) -> None:
        self._plots = [(CurvePlot(at.label, logarithmic=at.logarithmic), at) for at in _CURVES]

    def draw(self, cell: CellReport, prefix: str) -> list[str]:
        """The plots of a cell as SVG, of the measures that its frames have. `prefix`: see CurvePlot.svg."""
        pictures = pictures_of(cell)
        frames = [picture.metrics.frame for picture in pictures]
        drawn = []
        for number, (plot, measure) in enumerate(self._plots):
            values = [measure.of(picture) for picture in pictures]
            floor = [None if picture.floor is None else measure.of_floor(picture.floor) for picture in pictures]
            if any(value is not None for value in values):
                drawn.append(plot.svg(frames, values, floor, f"{prefix}-{number}"))
        return drawn


def trajectory_of(investigation: Investigation, prefix: str) -> str | None:
    """The plot of the high-band share after every denoise step; None where no latent was kept."""
    steps = investigation.trajectory
    if not steps:
        return None
    names = [f"{at.frame}.{at.step}" for at in steps]
    return trajectory_plot(names, [at.reference for at in steps], [at.candidate for at in steps], prefix)


def trajectory_table(investigation: Investigation) -> Table:
    """The high-band share of the latent after every denoise step, of both sides."""
    rows = [
        {
            "frame": at.frame,
            "step": at.step,
            "sigma": at.sigma,
            "reference": at.reference,
            "candidate": at.candidate,
            "ratio": at.candidate / at.reference if at.reference and at.candidate is not None else None,
        }
        for at in investigation.trajectory
    ]
    shares = {"sigma": "{:.4g}".format, "reference": fixed(6), "candidate": fixed(6), "ratio": fixed(6)}
    return Table.of(rows, shares)


def crossing_table(investigation: Investigation) -> Table:
    """Each decoder on the other side's latent, against the reference's own frame."""
    rows = [
        {"frame": at.frame}
        | _measured("reference's decoder, candidate's latent", at.reference_decoder)
        | _measured("candidate's decoder, reference's latent", at.candidate_decoder)
        for at in investigation.crossing
    ]
    formats = {name: fixed(6) if name.endswith("SSIM") else fixed(4) for row in rows[:1] for name in row}
    return Table.of(rows, formats | {"frame": str})


def decisions(cell: CellReport) -> dict[str, list[int]]:
    """The frames that differ by more than noise, by what tells them from the reference's."""
    found: dict[str, list[int]] = {}
    for picture in pictures_of(cell):
        if picture.decision is not None and picture.decision.cause != "none":
            found.setdefault(picture.decision.cause, []).append(picture.metrics.frame)
    return found


def _measured(of: str, metrics: FrameMetrics) -> dict[str, float]:
    return {f"{of}: SSIM": metrics.ssim, f"{of}: mean |d|": metrics.mean_abs}


def _row(picture: Picture) -> dict[str, Any]:
    metrics, decision, floor = picture.metrics, picture.decision, picture.floor
    row = {
        "frame": metrics.frame,
        "SSIM": metrics.ssim,
        "mean |d|": metrics.mean_abs,
        "max |d|": metrics.max_abs,
        "PSNR dB": metrics.psnr,
        "sharpness": picture.sharpness,
        "differs by": "no more than noise" if decision is None or decision.cause == "none" else decision.cause,
    }
    for name in ("edge_width", "noise", "gain", "likeness"):
        row[name.replace("_", " ")] = getattr(decision, name, None)
    row["shift"] = None if decision is None else "{:+.2f}, {:+.2f}".format(*decision.shift)
    row["floor of SSIM"] = None if floor is None else scientific(1 - floor.ssim)
    return row


def _blurred(cell: CellReport) -> dict[tuple[int, str], str]:
    return {
        (number, "differs by"): "bad"
        for number, picture in enumerate(pictures_of(cell))
        if picture.decision is not None and picture.decision.cause != "none"
    }
