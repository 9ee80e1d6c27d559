"""A finished parity run as lines for a terminal."""

from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.summary import reused_text, summary_table


def summary_lines(summary: Summary) -> list[str]:
    """The table of cells, contradictions, what failed to run, what the factors decide, and the verdict last."""
    lines = [summary_table(summary)] if summary.variants else []
    for name, comparison in summary.variants.items():
        lines += [f"CONTRADICTION: {name}: {each}" for each in comparison.contradictions]
    for failure in summary.failures:
        lines.append(f"FAILED TO RUN: {failure.name}: {failure.message}")
        lines += [] if failure.kept is None else [f"  kept:     what it recorded up to there, in {failure.kept}"]
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
