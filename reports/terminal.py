"""A finished parity run as lines for a terminal."""

import shlex
from itertools import takewhile

from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.summary import reused_text, summary_frame

# Of the table. A text that is cut to fit keeps so many characters at least; summary.md has all of it.
_COLUMNS, _FEWEST = 100, 12
_SHORTER = {"first diverging site": "first", "precision": "of bound", "min SSIM": "SSIM", "max mean abs d": "mean |d|"}
# Cut before any other.
_LONG = ("variant", "first")


def summary_lines(summary: Summary) -> list[str]:
    """The table of cells, contradictions, what failed to run, what the factors decide, and the verdict last."""
    lines = _table(summary) if summary.variants else []
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
    """Each failing cell by its whole name: where it diverges first, and the command that runs it again, alone."""
    lines = []
    for name, run in summary.cells.items():
        if summary.verdict_of(name).passes:
            continue
        first = summary.variants[name].first
        at = "" if first is None else f", first at {first.key}"
        lines += [f"{name}: {summary.stated_of(name)}{at}", *_command(run.command)]
    for failure in summary.failures:
        lines += [f"{failure.name}: did not run", *_command(failure.command)]
    return lines


def _command(words: list[str]) -> list[str]:
    return [f"  again: {shlex.join(['waypoint-parity', *words])}"] if words else []


def _table(summary: Summary) -> list[str]:
    """The cells in _COLUMNS columns; the longest texts are cut in their middle where they have to be."""
    frame = summary_frame(summary).rename(columns=_SHORTER)
    # In brief: the next columns tell which question a cell fails.
    frame["verdict"] = [str(summary.verdict_of(name)) for name in summary.variants]
    if "of bound" in frame:
        frame["of bound"] = [text.removesuffix(" of bound").removesuffix(" x bound") for text in frame["of bound"]]
    if all(comparison.compared == comparison.expected for comparison in summary.variants.values()):
        frame = frame.drop(columns="coverage")
    frame = frame.drop(columns=[name for name in frame.columns if name.endswith("horizon")])
    if sum(max(map(len, [name, *frame[name]])) + 2 for name in frame) > _COLUMNS:
        frame["variant"] = _told_apart(list(frame["variant"]))
    widths = {name: max(len(name), *map(len, frame[name])) for name in frame.columns}
    while sum(widths.values()) + 2 * (len(widths) - 1) > _COLUMNS:
        longest = max(_LONG, key=lambda name: widths[name])
        widest = longest if widths[longest] > _FEWEST else max(widths, key=lambda name: widths[name])
        if widths[widest] <= _FEWEST:
            break
        widths[widest] -= 1
    rows = [list(frame.columns), ["-" * width for width in widths.values()], *frame.to_numpy().tolist()]
    return ["  ".join(map(_fitted, row, widths.values())).rstrip() for row in rows]


def _told_apart(names: list[str]) -> list[str]:
    """Names without the words that all of them begin with, and end with."""
    words = [name.split("_") for name in names]
    begin, end = _in_common(words), _in_common([each[::-1] for each in words])
    if len(names) == 1 or any(len(each) <= begin + end for each in words):
        return names
    apart = ("_".join(each[begin : len(each) - end]) for each in words)
    return [f"{'…' if begin else ''}{each}{'…' if end else ''}" for each in apart]


def _in_common(words: list[list[str]]) -> int:
    """How many words all of these begin with."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False)))


def _fitted(text: str, width: int) -> str:
    """`text` in so many columns: its beginning and its end where it is longer."""
    if len(text) <= width:
        return text.ljust(width)
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[-end:]}"
