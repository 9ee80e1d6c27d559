"""A comparison of frames as lines for a terminal."""

from collections import Counter
from itertools import pairwise
from statistics import fmean

from waypoint_parity.harness.judge.frames import FrameResult, FramesComparison, FramesFloor

# Rows of the table; a long session shows as many of its frames, evenly.
_ROWS = 24
# Stretches of the drift curve.
_STRETCHES = 8


def frames_lines(comparison: FramesComparison) -> list[str]:
    """The verdict, where it fails first, the floor and the drift; then a row for each frame, or for some of many."""
    frames = comparison.frames
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(Counter(at.verdict for at in frames).items()))
    lines = [f"{comparison.verdict}: {comparison.candidate} against {comparison.reference}"]
    if comparison.first is not None:
        lines.append(f"  first to fail: {_frame_line(frames[comparison.first])}")
    if frames[comparison.worst].mean_abs:
        lines.append(f"  worst frame:   {_frame_line(frames[comparison.worst])}")
    lines.append(f"  frames:        {counts}; mean |d| over those of both {comparison.mean_abs:.4g}")
    lines.append(f"  judged by:     {_judge(comparison)}")
    if comparison.floor is not None:
        lines.append(f"  floor:         {_floor_line(comparison, comparison.floor)}")
    if (compared := [at.mean_abs for at in frames if at.mean_abs is not None])[1:]:
        lines.append(f"  drift:         {_drift(compared)}")
    lines += [f"  note:          {note}" for note in comparison.notes]
    chosen = comparison.chosen(_ROWS)
    if len(chosen) < len(frames):
        lines.append(f"{len(chosen)} of {len(frames)} frames; --json has all:")
    return [*lines, *_table([frames[place] for place in chosen])]


def _frame_line(at: FrameResult) -> str:
    if at.mean_abs is None or at.ssim is None:
        return f"{at.called}: {at.note}"
    bound = "" if at.bound is None else f", bound {at.bound:.4g}"
    psnr = "" if at.psnr is None else f", PSNR {at.psnr:.1f} dB"
    sharp = "" if at.sharpness is None else f", sharpness {at.sharpness:.3f} of the reference's"
    cause = "" if at.differs_by in (None, "none", "other") else f", differs by {at.differs_by}"
    return f"{at.called}: mean |d| {at.mean_abs:.4g}{bound}, max {at.max_abs}, SSIM {at.ssim:.4f}{psnr}{sharp}{cause}"


def _judge(comparison: FramesComparison) -> str:
    if comparison.bound is not None:
        return f"a mean |d| of at most {comparison.bound:.4g} of 255, as given"
    if comparison.floor is not None:
        return "what the second run of the reference reached up to each frame, and its mean"
    return "equality, bit for bit"


def _floor_line(comparison: FramesComparison, floor: FramesFloor) -> str:
    port = f"{comparison.candidate} {comparison.mean_abs:.4g}"
    if not floor.mean_abs:
        return f"{floor.second} is equal to {comparison.reference} bit for bit, {port}"
    times = "" if floor.times is None else f", {floor.times:.2g} times the floor"
    return f"{comparison.reference} against {floor.second} {floor.mean_abs:.4g}, {port}{times}"


def _drift(errors: list[float]) -> str:
    """Means over stretches of the session."""
    count = min(_STRETCHES, len(errors))
    edges = [round(step * len(errors) / count) for step in range(count + 1)]
    means = [fmean(errors[start:end]) for start, end in pairwise(edges)]
    over = "each frame" if count == len(errors) else f"{count} equal stretches"
    return f"mean |d| over {over}: {' '.join(f'{mean:.3g}' for mean in means)}"


def _table(frames: list[FrameResult]) -> list[str]:
    head = ("frame", "mean |d|", "max", "SSIM", "PSNR dB", "sharpness", "differs by", "bound", "verdict")
    rows = [head, *map(_row, frames)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _row(at: FrameResult) -> tuple[str, ...]:
    figures = (
        ("{:.4g}", at.mean_abs),
        ("{}", at.max_abs),
        ("{:.4f}", at.ssim),
        ("{:.1f}", at.psnr),
        ("{:.3f}", at.sharpness),
        ("{}", at.differs_by),
        ("{:.4g}", at.bound),
    )
    texts = ("-" if value is None else form.format(value) for form, value in figures)
    return (at.frame, *texts, str(at.verdict))
