"""Sharpness of a decoded frame against the reference's, and whether it is blur that tells the two apart."""

import math
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError

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


Resemblance = Literal["none", "blur", "noise", "shift", "contrast", "compression", "other"]

# Of red, green and blue in the luma (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Blur leaves at most so much of the sharpness and widens the edges at least so much: a Gaussian of sigma 0.5 does so to
# photographs (about 0.8 and 1.1), and shifts, contrast, noise and JPEG do not: tests/harness/compare/test_sharpness.py.
MOST_SHARPNESS, LEAST_EDGE_WIDTH = 0.9, 1.05
# Less alike than this, the two are pictures of different things: there are no same edges to measure.
LEAST_LIKENESS = 0.8
# Frames closer than this, in root mean square levels, differ by rounding.
ROUNDING = 0.5
# JPEG of quality 95 leaves more zeros than this on its grid.
LEAST_GRID = 1.1
# A shift below this, in pixels, is within what the search for it can tell.
LEAST_SHIFT = 0.05

_SCALE = 1.0
# Variance of white noise after the Laplacian of Gaussian of that scale: the sum of its squared weights.
_NOISE_GAIN = 0.1608
_BLOCK, _MARGIN = 16, 16
# Pixels that a picture must have each way for anybody to say what tells it from another.
LEAST_SIDE = 4 * _MARGIN
# The share of the blocks that are flat, and the levels outside which noise would be cut off.
_FLAT = 0.1
_CLIPPED = (20, 235)


class BlurDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What tells a frame from the reference's, most of all. Ratios are the frame's over the reference's.

    `sharpness` is the variance of the Laplacian of Gaussian over that of the luma, the noise of both frames taken out,
    and `sharpness_with_noise` with it; `edge_width` the width of the reference's strong edges. None: not measurable.
    `noise` in levels, of the luma, beyond the reference's; `shift` in pixels down and right; `gain` and `offset`
    (levels) of the luma; `likeness` the correlation of the means of 16x16 blocks, the shift undone; `grid` how many
    more zeros there are on JPEG's grid than off it, and than the reference has there: about 1 without JPEG.
    """

    cause: Resemblance
    sharpness: float | None
    sharpness_with_noise: float | None
    edge_width: float | None
    noise: float
    shift: tuple[float, float]
    gain: float
    offset: float
    likeness: float
    grid: float


def sharpness(pixels: Pixels) -> float:
    """Variance of the Laplacian of Gaussian (sigma 1) of the luma, over the variance of the luma; 0 for a flat frame.

    `pixels` [height,width,3] uint8. Blur lowers it, noise raises it, a change of contrast leaves it.
    """
    luma = _luma(pixels)
    variance = float(luma.var())
    return float(ndimage.gaussian_laplace(luma, _SCALE).var()) / variance if variance else 0.0


def blur_decision(actual: Pixels, expected: Pixels) -> BlurDecision:
    """Decide on one pair of frames [height,width,3] uint8; see ReferenceFrame."""
    return ReferenceFrame(expected).decide(actual)


class ReferenceFrame:
    """A frame of the reference, measured once, which the same frame of any implementation is then held against.

    "blur" is decided only where both measures say so: the sharpness, from which white noise is taken out by its level
    in the reference's flat blocks, and the width of the reference's strong edges, which noise does not change (it
    averages out), contrast does not (a width has no height) and a shift does not (it is followed).
    """

    def __init__(self, expected: Pixels) -> None:
        """Measure `expected` [height,width,3] uint8. Raises UserError for a frame that is too small to measure."""
        if min(expected.shape[:2]) < LEAST_SIDE:
            raise UserError(
                "the sharpness cannot be measured",
                found=f"a frame of {expected.shape[0]}x{expected.shape[1]} pixels",
                expected=f"at least {LEAST_SIDE} each way",
                do="compare the frames as the decoder gives them",
            )
        self._luma = _luma(expected)
        detail = ndimage.gaussian_laplace(self._luma, _SCALE)
        self._spectrum, self._detail_spectrum = fft.rfft2(self._luma), fft.rfft2(detail)
        self._variance, self._detail = float(self._luma.var()), float(detail.var())
        self._flat = _flat_blocks(self._luma)
        self._noise = _noise_variance(self._luma, self._flat)
        self._edges = strong_edges(self._luma, _MARGIN)
        self._edge_width = edge_width(self._luma, self._edges)
        self._grid = _zeros_on_grid(self._luma)

    def decide(self, actual: Pixels) -> BlurDecision:
        """What tells `actual`, of the same shape, from the reference. Raises UserError for another shape."""
        if actual.shape[:2] != self._luma.shape:
            raise UserError(
                "the sharpness cannot be compared",
                found=f"a frame of {actual.shape[0]}x{actual.shape[1]} pixels",
                expected="x".join(map(str, self._luma.shape)),
                do="compare the frames as the decoder gives them",
            )
        luma = _luma(actual)
        detail = ndimage.gaussian_laplace(luma, _SCALE)
        shift = self._shift(detail)
        noise = _noise_variance(luma, self._flat)
        kept = self._sharpness(luma, detail, noise, self._noise)
        residual = _Residual(luma, self._luma, self._moved(shift))
        grid = _zeros_on_grid(luma) / max(1.0, self._grid)
        width = self._widening(luma, shift) if residual.likeness >= LEAST_LIKENESS else None
        blurred = kept is not None and width is not None and kept <= MOST_SHARPNESS and width >= LEAST_EDGE_WIDTH
        # Blur takes detail away: where there is more of it than before, what changed most is the contrast.
        blurred = blurred and float(detail.var()) - _NOISE_GAIN * noise < self._detail - _NOISE_GAIN * self._noise
        return BlurDecision(
            cause="blur" if blurred else residual.cause(self._flat, grid),
            sharpness=kept,
            sharpness_with_noise=self._sharpness(luma, detail, 0.0, 0.0),
            edge_width=width,
            noise=max(0.0, noise - self._noise) ** 0.5,
            shift=shift,
            gain=residual.gain,
            offset=residual.offset,
            likeness=residual.likeness,
            grid=grid,
        )

    def _sharpness(self, luma: Plane, detail: Plane, noise: float, own_noise: float) -> float | None:
        contrast = (float(luma.var()) - noise, self._variance - own_noise)
        details = (float(detail.var()) - _NOISE_GAIN * noise, self._detail - _NOISE_GAIN * own_noise)
        if min(contrast) <= 0 or details[1] <= 0:
            return None
        return max(0.0, details[0]) / details[1] / (contrast[0] / contrast[1])

    def _widening(self, luma: Plane, shift: tuple[float, float]) -> float | None:
        width = edge_width(luma, self._edges, shift)
        return width / self._edge_width if width and self._edge_width else None

    def _shift(self, detail: Plane) -> tuple[float, float]:
        """Where the correlation of the details peaks, at most _MARGIN pixels away, between pixels by a parabola."""
        correlation = fft.irfft2(fft.rfft2(detail) * self._detail_spectrum.conj(), s=detail.shape)
        around = np.arange(-_MARGIN - 1, _MARGIN + 2)
        near = correlation[np.ix_(around, around)]
        y, x = (int(index) for index in np.unravel_index(near[1:-1, 1:-1].argmax(), (2 * _MARGIN + 1,) * 2))
        if near[y + 1, x + 1] <= 0:
            return 0.0, 0.0
        down, right = _summit(near[y : y + 3, x : x + 3].astype(np.float64))
        return y - _MARGIN + down, x - _MARGIN + right

    def _moved(self, shift: tuple[float, float]) -> Plane:
        if max(map(abs, shift)) < LEAST_SHIFT:
            return self._luma
        height, width = self._luma.shape
        turns = shift[0] * fft.fftfreq(height)[:, None] + shift[1] * fft.rfftfreq(width)
        turned = self._spectrum * np.exp(-2j * np.pi * turns).astype(np.complex64)
        return np.asarray(fft.irfft2(turned, s=self._luma.shape))


class _Residual:
    """What is left of the difference to the reference once a shift and then a linear change of contrast are undone."""

    def __init__(self, luma: Plane, reference: Plane, moved: Plane) -> None:
        # Means of blocks: blur and noise hardly change them, so the gain is the contrast's alone.
        actual, expected = _blocks(_inside(luma)).mean(1), _blocks(_inside(moved)).mean(1)
        common = float(np.mean((actual - actual.mean()) * (expected - expected.mean())))
        own, spread = float(actual.var()), float(expected.var())
        self.gain = common / spread if spread else 1.0
        self.likeness = common / (own * spread) ** 0.5 if own and spread else 0.0
        self.offset = float(actual.mean() - self.gain * expected.mean())
        self._rest = luma - (self.gain * moved + self.offset)
        self._energies = [
            float(np.square(_inside(plane)).mean()) for plane in (luma - reference, luma - moved, self._rest)
        ]

    def cause(self, flat: npt.NDArray[np.intp], grid: float) -> Resemblance:
        """What explains most of the difference; `flat` are the reference's flat blocks, `grid` as in BlurDecision."""
        whole, unshifted, rest = self._energies
        if whole < ROUNDING**2:
            return "none"
        if self.likeness < LEAST_LIKENESS:
            return "other"
        gone: dict[Resemblance, float] = {"shift": whole - unshifted, "contrast": unshifted - rest}
        largest = max(gone, key=lambda cause: gone[cause])
        if gone[largest] > rest:
            return largest
        if grid > LEAST_GRID:
            return "compression"
        # Noise is as strong where the reference is flat; what comes of the picture's own detail is not.
        return "noise" if _noise_variance(self._rest, flat) > rest / 2 else "other"


def _inside(plane: Plane) -> Plane:
    return plane[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _luma(pixels: Pixels) -> Plane:
    return np.asarray(pixels.astype(np.float32) @ LUMA, np.float32)


def _blocks(plane: Plane) -> Plane:
    """The whole blocks of `plane`, each a row: [count,_BLOCK*_BLOCK]."""
    rows, columns = plane.shape[0] // _BLOCK, plane.shape[1] // _BLOCK
    whole = plane[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return whole.swapaxes(1, 2).reshape(-1, _BLOCK * _BLOCK)


def _flat_blocks(luma: Plane) -> npt.NDArray[np.intp]:
    """The flattest blocks, seen through a blur so that noise does not choose them; where noise would be cut, last."""
    variance = _blocks(ndimage.gaussian_filter(luma, 2.0)).var(1)
    mean = _blocks(luma).mean(1)
    clipped = (mean < _CLIPPED[0]) | (mean > _CLIPPED[1])
    return np.lexsort((variance, clipped))[: max(1, round(_FLAT * len(variance)))]


def _noise_variance(luma: Plane, flat: npt.NDArray[np.intp]) -> float:
    """Variance of the white noise, in squared levels: the median of that in the flat blocks.

    By the difference of two Laplacians (J. Immerkaer, "Fast Noise Variance Estimation", 1996), which is blind to
    planes and to straight edges along the axes; 36 is the sum of its squared weights.
    """
    squares = _blocks(luma)[flat].reshape(-1, _BLOCK, _BLOCK)
    second = np.diff(np.diff(squares, 2, axis=1), 2, axis=2)
    return float(np.median(np.square(second).mean((1, 2)))) / 36


def _summit(near: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of the paraboloid through `near` [3,3], highest in the middle: where its summit is, from there, in pixels."""
    slope = np.array([near[2, 1] - near[0, 1], near[1, 2] - near[1, 0]]) / 2
    mixed = (near[2, 2] + near[0, 0] - near[2, 0] - near[0, 2]) / 4
    down, right = (near[2, 1] + near[0, 1] - 2 * near[1, 1]), (near[1, 2] + near[1, 0] - 2 * near[1, 1])
    if down * right <= mixed**2:
        return 0.0, 0.0
    summit = np.linalg.solve(np.array([[down, mixed], [mixed, right]]), -slope).clip(-1, 1)
    return float(summit[0]), float(summit[1])


def _zeros_on_grid(luma: Plane) -> float:
    """Coefficients of the cosine transform that are zero on JPEG's grid of 8x8 blocks, over those half a block off it.

    By T. Nikoukhah et al., "ZERO: a Local JPEG Grid Origin Detector Based on the Number of DCT Zeros", 2020.
    """
    zeros = []
    for origin in (0, 4):
        rows, columns = ((length - origin) // 8 for length in luma.shape)
        blocks = luma[origin : origin + 8 * rows, origin : origin + 8 * columns].reshape(rows, 8, columns, 8)
        zeros.append(np.mean(np.abs(fft.dctn(blocks, axes=(1, 3), norm="ortho")) < 0.5))
    return float((zeros[0] + 1e-3) / (zeros[1] + 1e-3))
