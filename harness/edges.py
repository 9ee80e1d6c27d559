"""Edges: the strongest of a picture, and how wide they are there or in another picture of the same."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Plane = npt.NDArray[np.float32]

# Where a profile is sampled: pixels across the edge.
_ACROSS = np.arange(-8, 8.25, 0.5)
# Share of the pixels whose gradient is strong, and as many edges as a mean needs.
_STRONG, _ENOUGH = 0.03, 1000


class Edges(NamedTuple):
    """Places [count] of edges in pixels, and the unit vectors across them, from dark to bright."""

    y: npt.NDArray[np.floating]
    x: npt.NDArray[np.floating]
    across_y: npt.NDArray[np.floating]
    across_x: npt.NDArray[np.floating]


def strong_edges(luma: Plane, margin: int) -> Edges:
    """The strongest edges of `luma` [height,width], none of them within `margin` pixels of its border.

    As Canny (1986) has them: gradients (Gaussian derivatives of sigma 1) that are maxima across the edge.
    """
    down, right = (ndimage.gaussian_filter(luma, 1.0, order=order) for order in ((1, 0), (0, 1)))
    slope = np.hypot(down, right)
    inside = slope[margin:-margin, margin:-margin]
    y, x = margin + np.argwhere((inside >= np.quantile(inside, 1 - _STRONG)) & (inside > 0)).T
    strength = slope[y, x]
    across_y, across_x = down[y, x] / strength, right[y, x] / strength
    before, after = (
        ndimage.map_coordinates(slope, (y + step * across_y, x + step * across_x), order=1) for step in (-1, 1)
    )
    top = np.flatnonzero((strength >= np.maximum(before, after)) & (strength > np.minimum(before, after)))
    top = top[:: max(1, math.ceil(len(top) / _ENOUGH))]
    # Between the pixels, at the summit of a parabola: a place half a pixel off would widen the mean.
    off = ((after - before) / (2 * strength - before - after) / 2)[top]
    across_y, across_x = across_y[top], across_x[top]
    return Edges(y[top] + off * across_y, x[top] + off * across_x, across_y, across_x)


def edge_width(luma: Plane, edges: Edges, shift: tuple[float, float] = (0.0, 0.0)) -> float | None:
    """Width in pixels of the mean edge of `luma` at `edges` moved by `shift`; None where it does not rise there.

    The profiles across all edges are averaged, as the edge spread function of ISO 12233 is over the rows of one edge:
    noise goes, blur stays. The width is the full one at half maximum of the derivative, the line spread function,
    which does not depend on the height of the step.
    """
    if not len(edges.y):
        return None
    y = edges.y + shift[0] + _ACROSS[:, None] * edges.across_y
    x = edges.x + shift[1] + _ACROSS[:, None] * edges.across_x
    line = np.diff(ndimage.map_coordinates(luma, (y, x), order=3, output=np.float64, mode="nearest").mean(1))
    # The summit is looked for within two pixels of the place: further off it would be another edge.
    near = len(line) // 2 - 4
    summit = near + int(line[near : near + 8].argmax())
    half = float(line[summit]) / 2
    below = np.flatnonzero(line <= half)
    left, right = below[below < summit], below[below > summit]
    if half <= 0 or not len(left) or not len(right):
        return None
    start = _crossing(line, int(left[-1]) + 1, int(left[-1]), half)
    end = _crossing(line, int(right[0]) - 1, int(right[0]), half)
    return (end - start) * float(_ACROSS[1] - _ACROSS[0])


def _crossing(line: npt.NDArray[np.float64], above: int, below: int, level: float) -> float:
    """Where `line` falls to `level` from the index `above` to its neighbour `below`."""
    return above + (below - above) * float((line[above] - level) / (line[above] - line[below]))
