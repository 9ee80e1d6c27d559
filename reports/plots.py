"""Plots as SVG that stands in a page: its colours are the page's, in dark and in light."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

# What is drawn, in a colour that stands for a custom property of the style sheet; see `_svg`.
_PALETTE = {
    "--ink": "#010203",
    "--muted": "#010204",
    "--line": "#010205",
    "--reference": "#010206",
    "--candidate": "#010207",
    "--bad": "#010208",
    "--bound": "#010209",
}
INK, MUTED, LINE, REFERENCE, CANDIDATE, BAD, BOUND = _PALETTE.values()
_SETTINGS: Any = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "waypoint-parity",
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "path.simplify": False,
}
# An error of 0 has no logarithm: it is drawn so far below the smallest other one.
_BELOW = 0.3
_NO_ERROR = 1e-9


class CurvePlot:
    """One measure of every picture, with its noise floor: drawn for one cell after another on the same axes.

    To make axes takes longer than to draw on them.
    """

    def __init__(self, label: str, *, logarithmic: bool) -> None:
        self._label, self._logarithmic = label, logarithmic
        with mpl.rc_context(_SETTINGS):
            self._figure, self._axes = _figure(288, 150, label)
            if logarithmic:
                _scale_by_logarithm(self._axes)
            else:
                self._axes.yaxis.set_major_locator(MaxNLocator(3))
            (self._floor,) = self._axes.plot([], [], color=BOUND, linewidth=1, linestyle=(0, (4, 2)))
            (self._line,) = self._axes.plot([], [], color=CANDIDATE, linewidth=1.4, marker="o", markersize=3)

    def svg(
        self, names: Sequence[str], values: Sequence[float | None], floor: Sequence[float | None], prefix: str
    ) -> str:
        """The measure over the pictures; None is a value that does not exist: two equal pictures have no PSNR.

        `prefix` keeps the ids of one plot apart from those of another in the same page.
        """
        with mpl.rc_context(_SETTINGS):
            heights = [_drawn(numbers, self._logarithmic) for numbers in (values, floor)]
            for line, drawn in zip((self._line, self._floor), heights, strict=True):
                line.set_data(list(range(len(names))), drawn)
            every = max(1, len(names) // 4)
            self._axes.set_xticks(list(range(len(names)))[::every], list(names)[::every])
            self._axes.set_ylim(*_limits(heights[0] + heights[1], self._logarithmic))
            self._axes.set_xlim(-0.3, len(names) - 0.7)
            return _svg(self._figure, prefix, f"{self._label} of every picture")


@dataclass(frozen=True)
class LadderPoint:
    """One rung. `error` is None where no distance exists, `local`, the site's own error, where it is unknown."""

    section: str
    error: float | None
    bound: float
    local: float | None
    failed: bool


def ladder_plot(points: Sequence[LadderPoint], first: int | None, prefix: str) -> str:
    """Error of every site in execution order, over the bound; `first` is the rung of the first divergence."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _figure(1080, 260, "relative L2", above=34)
        _scale_by_logarithm(axes)
        errors = _drawn([point.error for point in points], True)
        places = range(len(points))
        axes.step(places, [max(point.bound, _NO_ERROR) for point in points], where="mid", color=BOUND, linewidth=1)
        for failed, colour in ((False, REFERENCE), (True, BAD)):
            chosen = [at for at in places if points[at].failed is failed]
            axes.plot(chosen, [errors[at] for at in chosen], "o", color=colour, markersize=2.6, linestyle="none")
        local = {at: own for at in places if (own := points[at].local)}
        axes.plot(
            list(local), list(local.values()), "D", markersize=3.6, markerfacecolor="none",
            markeredgecolor=CANDIDATE, markeredgewidth=0.9, linestyle="none",
        )  # fmt: skip
        _name_sections(axes, [point.section for point in points])
        if first is not None:
            axes.axvline(first, color=BAD, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlim(-2, len(points) + 1)
        return _svg(figure, prefix, "error of every site in execution order, over its bound")


def trajectory_plot(
    name: str,
    steps: Sequence[str],
    reference: Sequence[float | None],
    candidate: Sequence[float | None],
    prefix: str,
) -> str:
    """Share of a latent's energy in the high band after every step, of both sides; `name`: what is shown over what."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _figure(1080, 190, name)
        places = range(len(steps))
        axes.plot(places, _drawn(reference, False), color=REFERENCE, linewidth=2.4, marker="o", markersize=4)
        axes.plot(places, _drawn(candidate, False), color=CANDIDATE, linewidth=1.2, marker="o", markersize=2.2)
        every = max(1, len(steps) // 8)
        axes.set_xticks(list(places)[::every], list(steps)[::every])
        return _svg(figure, prefix, "high-band share of the latent's energy after every step")


def _scale_by_logarithm(axes: Axes) -> None:
    # Few ticks in plain text: most of the time that a plot takes goes into their labels.
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-").replace("e+00", ""))
    axes.yaxis.set_minor_locator(NullLocator())


def _drawn(values: Sequence[float | None], logarithmic: bool) -> list[float]:
    """`values` as numbers to draw: a gap where there is none, and below all others where a logarithm has no zero."""
    lowest = min((value for value in values if value), default=_NO_ERROR)
    zero = lowest * _BELOW if logarithmic else 0.0
    return [float("nan") if value is None else value or zero for value in values]


def _limits(drawn: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The range of an axis: whole decades, or one in which a change of less than a hundredth looks small."""
    known = [value for value in drawn if math.isfinite(value)] or [1.0]
    lowest, highest = min(known), max(known)
    if logarithmic:
        lower = math.floor(math.log10(lowest))
        return 10.0**lower, 10.0 ** max(lower + 1, math.ceil(math.log10(highest)))
    margin = max(0.1 * (highest - lowest), 0.005 * abs(highest))
    return lowest - margin, highest + margin


def _name_sections(axes: Axes, names: Sequence[str]) -> None:
    """The names of runs of equal sections above the plot, each begun by a line."""
    starts = [at for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        axes.axvline(start - 0.5, color=LINE, linewidth=0.6)
        axes.text(
            (start + end) / 2, 1.02, names[start], transform=axes.get_xaxis_transform(), ha="center", va="bottom",
            fontsize=8, color=MUTED,
        )  # fmt: skip
    axes.set_xticks([])


def _figure(width: int, height: int, name: str, above: int = 20) -> tuple[Figure, Axes]:
    """A figure of so many points with axes in the page's colours, under the name of what they show."""
    figure = Figure(figsize=(width / 72, height / 72))
    left, below, right = 44, 18, 8
    axes = figure.add_axes(
        (left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height), facecolor="none"
    )
    axes.grid(True, color=LINE, linewidth=0.5)
    axes.tick_params(colors=MUTED, labelsize=8, length=2)
    for side, spine in axes.spines.items():
        spine.set(color=LINE, visible=side in ("left", "bottom"))
    # A title of a given place needs no search for one, which takes as long as the drawing.
    axes.set_title("", y=1)
    figure.text(0, 0.99, name, va="top", fontsize=9, color=INK)
    return figure, axes


def _svg(figure: Figure, prefix: str, says: str) -> str:
    """The figure as an element of a page: without a document around it, in the page's colours, with ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for name, colour in _PALETTE.items():
        text = text.replace(colour, f"var({name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{says}" ', 1)
