"""The summary of a parity run as a table for the terminal."""

import pandas as pd

from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, distance_text
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import site_name
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.markdown import escaped, markdown_table


def summary_table(summary: Summary) -> str:
    """One row per cell that ran, in Markdown."""
    return markdown_table(summary_frame(summary))


def summary_frame(summary: Summary) -> pd.DataFrame:
    """One row per cell that ran, as texts."""
    asked = any(of.mathematics is not None or of.precision is not None for of in summary.variants.values())
    frame = pd.DataFrame([_cell_row(summary, name, asked=asked) for name in summary.variants]).fillna("")
    horizons = [name for name in frame.columns if name.endswith("horizon") and not any(frame[name])]
    return frame.drop(columns=horizons)


def reused_text(summary: Summary) -> str:
    """How many cells were not run, in a sentence."""
    some = f"{summary.reused} of {len(summary.cells)} cells"
    return f"{some} were made by an earlier run with the same inputs and code, and reused; --fresh runs them again."


def _cell_row(summary: Summary, name: str, *, asked: bool) -> dict[str, str]:
    """A row; `asked`: some cell has an answer to one of the two questions, which stand where the worst site does."""
    comparison, forced = summary.variants[name], summary.teacher_forced.get(name)
    unit_name, pictures = family_named(summary.family).unit_name, _measured(comparison)
    row = {
        "variant": escaped(name),
        "verdict": summary.stated_of(name),
        "first diverging site": _first(comparison),
        **(_answers(comparison) if asked else _worst(comparison)),
        "horizon": _horizon(comparison, unit_name),
        "coverage": f"{comparison.compared}/{comparison.expected}",
        "min SSIM": f"{pictures['ssim'].min():.6f}" if len(pictures) else "",
        "max mean abs d": f"{pictures['mean_abs'].max():.4f}" if len(pictures) else "",
        **({"run": "reused" if summary.cells[name].reused else "now"} if summary.reused else {}),
    }
    if forced is None:
        return row
    first = f"{forced.verdict}, first {_first(forced)}"
    return row | {"teacher-forced": first, "its horizon": _horizon(forced, unit_name)}


def _measured(comparison: Comparison) -> pd.DataFrame:
    columns = ("ssim", "mean_abs", "max_abs", "psnr")
    rows = [[getattr(metrics, column) for column in columns] for metrics in comparison.pictures]
    return pd.DataFrame(rows, columns=list(columns))


def _answers(comparison: Comparison) -> dict[str, str]:
    """The two questions in short: the distance of exact values, and the largest error by itself over its bound."""
    mathematics, precision = comparison.mathematics, comparison.precision
    answers = {"mathematics": "", "precision": ""}
    if mathematics is not None and mathematics.same:
        # Nothing is said where exact values were lost, and little by few of them.
        known = mathematics.observations
        all_of = known + mathematics.lost if mathematics.lost else max(known, comparison.compared)
        at = f" at {known} of {all_of}" if mathematics.lost or 2 * known < all_of else ""
        answers["mathematics"] = f"same{at}, {distance_text(mathematics.worst)}"
    elif mathematics is not None:
        other = [failure for failure in comparison.failures if (failure.exact or 0) > mathematics.bound]
        # The column before this one names the site where it is the first divergence.
        elsewhere = bool(other) and other[0] != comparison.first
        apart = f"{distance_text(mathematics.worst)} apart"
        answers["mathematics"] = f"from {site_name(other[0].site, other[0].branch)}" if elsewhere else apart
    if precision is not None:
        answers["precision"] = precision.in_short
    return answers


def _worst(comparison: Comparison) -> dict[str, str]:
    worst = comparison.worst
    return {"worst site error": _scientific(worst.rel_l2) if worst else "", "at": _where(worst)}


def _first(comparison: Comparison) -> str:
    """Where a comparison diverged first, or why there is none."""
    contradiction = "contradiction" if comparison.contradictions else "none"
    return escaped(comparison.reason or "") or _where(comparison.first) or contradiction


def _horizon(comparison: Comparison, unit_name: str) -> str:
    """The first unit whose error exceeds what noise grows to, where errors were measured unit by unit and it fails."""
    if not comparison.growth or comparison:
        return ""
    return "none" if comparison.horizon is None else f"{unit_name} {comparison.horizon}"


def _where(result: SiteResult | None) -> str:
    return f"{site_name(result.site, result.branch)} (u{result.unit} {result.phase}{result.step})" if result else ""


def _scientific(value: float | None) -> str:
    return "no distance" if value is None else f"{value:.1e}"
