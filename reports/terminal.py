"""A finished parity run as lines for a terminal."""

import shlex

import pandas as pd

from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.summary import reused_text, summary_frame

# Of a table; a text that is cut to fit keeps so many characters at least. summary.md has all of it.
_COLUMNS, _FEWEST = 100, 9
_SHORTER = {"first diverging site": "first divergence", "min SSIM": "SSIM", "max mean abs d": "mean |d|"}


def summary_lines(summary: Summary) -> list[str]:
    """The table of cells, contradictions, what failed to run, what the factors decide, and the verdict last."""
    lines = _table(summary_frame(summary)) if summary.variants else []
    for name, comparison in summary.variants.items():
        lines += [f"CONTRADICTION: {name}: {each}" for each in comparison.contradictions]
    for failure in summary.failures:
        lines.append(f"FAILED TO RUN: {failure.name}: {failure.message}")
        lines += [] if failure.kept is None else [f"  kept:     what it recorded up to there, in {failure.kept}"]
    lines += _again(summary)
    lines += summary.effects.sentences if summary.effects is not None and not summary.verdict.passes else []
    if summary.blamed is not None:
        lines.append(f"causes in {summary.blamed}{'' if summary.born is None else f', born in: {summary.born}'}")
        lines += [f"  {rank}. {cause}" for rank, cause in enumerate(summary.causes, start=1)]
    if summary.not_blamed is not None:
        lines.append(f"no cause was searched: {summary.not_blamed}")
    if summary.reused:
        lines.append(reused_text(summary))
    count = f"{len(summary.variants)} variants in {summary.seconds:.0f} s"
    return [*lines, f"{summary.verdict}: {count}"]


def _again(summary: Summary) -> list[str]:
    """The command that runs each failing cell again, alone."""
    ran = {name: run.command for name, run in summary.cells.items() if not summary.verdict_of(name).passes}
    failing = ran | {failure.name: failure.command for failure in summary.failures}
    return [
        line
        for name, command in failing.items()
        if command
        for line in (f"run {name} again:", f"  {shlex.join(['waypoint-parity', *command])}")
    ]


def _table(frame: pd.DataFrame) -> list[str]:
    """A table of texts in _COLUMNS columns; the longest of them are cut in their middle where it has to be."""
    frame = frame.rename(columns=_SHORTER)
    widths = {name: max(len(name), *map(len, frame[name])) for name in frame.columns}
    between = 2 * (len(widths) - 1)
    while sum(widths.values()) + between > _COLUMNS:
        widest = max(widths, key=lambda name: widths[name])
        if widths[widest] <= _FEWEST:
            break
        widths[widest] -= 1
    rows = [list(frame.columns), ["-" * width for width in widths.values()], *frame.to_numpy().tolist()]
    return ["  ".join(map(_fitted, row, widths.values())).rstrip() for row in rows]


def _fitted(text: str, width: int) -> str:
    """`text` in so many columns: its beginning and its end where it is longer."""
    if len(text) <= width:
        return text.ljust(width)
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[-end:]}"
