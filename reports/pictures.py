"""What became of the decoded pictures of a cell: measures of each, their floor, and what tells them apart."""

from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.explain.investigation.result import LatentStep, Picture, PictureFloor
from waypoint_parity.harness.run.keys import site_name
from waypoint_parity.reports.plots import CurvePlot, trajectory_plot
from waypoint_parity.reports.run import CellReport
from waypoint_parity.reports.table import Format, Table, fixed, scientific

MEASURES: dict[str, Callable[[Any], str]] = {
    "SSIM": fixed(6),
    "mean |d|": "{:.4g}".format,
    "PSNR dB": fixed(1),
    "sharpness": fixed(4),
    "edge width": fixed(3),
    "noise": fixed(2),
    "gain": fixed(3),
    "likeness": fixed(4),
}


# Of what tells two pictures apart.
_UNKNOWN = "no known kind"


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
    return [Picture(metrics=metrics, sharpness=None) for metrics in cell.comparison.pictures]


def pictures_table(cell: CellReport) -> Table:
    """Every picture: its measures, and the blur decision with what it rests on."""
    return Table.of([_row(cell, picture) for picture in pictures_of(cell)], MEASURES, _blurred(cell))


class Curves:
    """The curves of a cell's pictures: lost SSIM, mean difference, PSNR and sharpness, with the floor of each."""

    def __init__(self) -> None:
        self._plots = [(CurvePlot(at.label, logarithmic=at.logarithmic), at) for at in _CURVES]

    def draw(self, cell: CellReport, prefix: str) -> list[str]:
        """The plots of a cell as SVG, of the measures that its pictures have. `prefix`: see CurvePlot.svg."""
        pictures = pictures_of(cell)
        names = [str(cell.label(picture.metrics.at)) for picture in pictures]
        drawn = []
        for number, (plot, measure) in enumerate(self._plots):
            values = [measure.of(picture) for picture in pictures]
            floor = [None if picture.floor is None else measure.of_floor(picture.floor) for picture in pictures]
            if any(value is not None for value in values):
                drawn.append(plot.svg(names, values, floor, f"{prefix}-{number}"))
        return drawn


def trajectory_plots(cell: CellReport, prefix: str) -> list[str]:
    """A plot for every site of latents: the high-band share after every step; none where no latent was kept."""
    steps = sorted(_trajectory(cell), key=lambda at: (at.site, at.branch))
    plots = []
    for number, ((site, branch), of_site) in enumerate(groupby(steps, lambda at: (at.site, at.branch))):
        shown = list(of_site)
        single = len({at.phase for at in shown}) == 1
        plots.append(
            trajectory_plot(
                f"high-band share of {site_name(site, branch)}, by {cell.family.unit_name}.step",
                [f"{at.unit}.{'' if single else at.phase}{at.step}" for at in shown],
                [at.reference for at in shown],
                [at.candidate for at in shown],
                f"{prefix}-{number}",
            )
        )
    return plots


def trajectory_table(cell: CellReport) -> Table:
    """The high-band share of the latents after every step, of both sides."""
    rows = [
        {
            cell.family.unit_name: at.unit,
            "step": f"{at.phase} {at.step}",
            "site": site_name(at.site, at.branch),
            "sigma": at.sigma,
            "reference": at.reference,
            "candidate": at.candidate,
            "ratio": at.candidate / at.reference if at.reference and at.candidate is not None else None,
        }
        for at in _trajectory(cell)
    ]
    shares = {"sigma": "{:.4g}".format, "reference": fixed(6), "candidate": fixed(6), "ratio": fixed(6)}
    return Table.of(rows, shares)


def crossing_table(cell: CellReport) -> Table:
    """Each decoder on the other side's latent, against the reference's own picture."""
    rows: list[dict[str, Any]] = [
        {cell.picture_name: cell.label(at.at)}
        | _measured("reference's decoder, candidate's latent", at.reference_decoder)
        | _measured("candidate's decoder, reference's latent", at.candidate_decoder)
        for at in ([] if cell.investigation is None else cell.investigation.crossing)
    ]
    names = [name for row in rows[:1] for name in row]
    formats: dict[str, Format] = {name: fixed(6) if name.endswith("SSIM") else fixed(4) for name in names}
    return Table.of(rows, formats | {cell.picture_name: str})


def decisions(cell: CellReport) -> dict[str, list[int | str]]:
    """The pictures that differ by more than noise, by what tells them from the reference's."""
    found: dict[str, list[int | str]] = {}
    for picture in pictures_of(cell):
        if _is_told(cause := _cause(cell, picture)):
            found.setdefault(str(cause), []).append(cell.label(picture.metrics.at))
    return found


def _cause(cell: CellReport, picture: Picture) -> str | None:
    """What tells a picture from the reference's; None where nobody looked."""
    if picture.decision is not None:
        return _UNKNOWN if picture.decision.cause == "other" else picture.decision.cause
    if picture.metrics.within_noise:
        return "none"
    return None if cell.investigation is None else _UNKNOWN


def _is_told(cause: str | None) -> bool:
    return cause not in ("none", None)


def _trajectory(cell: CellReport) -> list[LatentStep]:
    return [] if cell.investigation is None else cell.investigation.trajectory


def _measured(of: str, metrics: PictureMetrics) -> dict[str, float]:
    return {f"{of}: SSIM": metrics.ssim, f"{of}: mean |d|": metrics.mean_abs}


def _row(cell: CellReport, picture: Picture) -> dict[str, Any]:
    metrics, decision, floor, cause = picture.metrics, picture.decision, picture.floor, _cause(cell, picture)
    row = {
        cell.picture_name: cell.label(metrics.at),
        "SSIM": metrics.ssim,
        "mean |d|": metrics.mean_abs,
        "max |d|": metrics.max_abs,
        "PSNR dB": metrics.psnr,
        "sharpness": picture.sharpness,
        "differs by": "too little to tell" if cause == "none" else cause,
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
        if _is_told(_cause(cell, picture))
    }
