"""The summary of a parity run: a table for the terminal, and the Markdown file."""

import pandas as pd

from waypoint_parity.harness.compare.pictures import SSIM_VARIANT
from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, Verdict, distance_text
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import site_name
from waypoint_parity.harness.sweep.summary import Effects, Summary
from waypoint_parity.reports.markdown import escaped, markdown_table

# GitHub takes a step summary of 1 MiB at most, and drops a larger one whole.
BUDGET = 900 << 10
# Of a message in a table; a user's error says the same thing in four parts, and a traceback lies in the JUnit file.
_LONGEST_MESSAGE = 400
# Whose details come first: there is the most to read where something diverged, and the least where all is well.
_ORDER = (
    Verdict.DIVERGED,
    Verdict.UNEXPLAINED,
    Verdict.MISSING,
    Verdict.NOT_REFUTED,
    Verdict.INCOMPARABLE,
    Verdict.WITHIN_NOISE,
    Verdict.IDENTICAL,
)


def summary_table(summary: Summary) -> str:
    """One row per cell that ran, in Markdown."""
    return markdown_table(summary_frame(summary))


def summary_frame(summary: Summary) -> pd.DataFrame:
    """One row per cell that ran, as texts."""
    asked = any(of.mathematics is not None or of.precision is not None for of in summary.variants.values())
    frame = pd.DataFrame([_cell_row(summary, name, asked=asked) for name in summary.variants]).fillna("")
    horizons = [name for name in frame.columns if name.endswith("horizon") and not any(frame[name])]
    return frame.drop(columns=horizons)


def summary_markdown(summary: Summary, *, budget: int = BUDGET) -> str:
    """The whole run in at most `budget` bytes of UTF-8: the verdict, what decides, every cell in a row, then each.

    Where there is no room for the details of all cells, those of the worst ones are given, and how many were left out.
    """
    head = "\n".join(
        [_head(summary), *_failures(summary), *_causes(summary), *_effects(summary.effects), *_cells(summary)]
    )
    names = sorted(summary.variants, key=lambda name: _ORDER.index(summary.verdict_of(name)))
    sections: list[str] = []
    left = budget - len(head.encode()) - len(_left_out(len(names)).encode())
    for name in names:
        section = _cell_details(summary, name)
        left -= len(section.encode()) + 1
        if left < 0:
            return _cut("\n".join([head, *sections, _left_out(len(names) - len(sections))]), budget)
        sections.append(section)
    return "\n".join([head, *sections])


def _head(summary: Summary) -> str:
    failed = f", {len(summary.failures)} failed to run" if summary.failures else ""
    candidates = ", ".join(f"`{candidate}`" for candidate in summary.candidates)
    text = (
        f"# Parity: {summary.verdict}{failed}\n\n"
        f"{candidates} against `{summary.reference}` on `{summary.checkpoint}` "
        f"(digest {summary.checkpoint_digest[:12]}), {summary.numerics['dtype']} on {summary.numerics['device']}, "
        f"{len(summary.variants)} variants in {summary.seconds:.0f} s.\nSSIM: {SSIM_VARIANT}.\n"
    )
    if summary.reused:
        text += f"{reused_text(summary)}\n"
    return text if summary.not_blamed is None else f"{text}No cause was searched: {summary.not_blamed}\n"


def reused_text(summary: Summary) -> str:
    """How many cells were not run, in a sentence."""
    some = f"{summary.reused} of {len(summary.cells)} cells"
    return f"{some} were made by an earlier run with the same inputs and code, and reused; --fresh runs them again."


def _failures(summary: Summary) -> list[str]:
    """The cells that did not run, and why."""
    rows = [
        {"failed to run": escaped(failure.name), "message": escaped(failure.message[:_LONGEST_MESSAGE])}
        for failure in summary.failures
    ]
    return [f"{markdown_table(pd.DataFrame(rows))}\n"] if rows else []


def _causes(summary: Summary) -> list[str]:
    """What is wrong by itself in the cell that was searched."""
    if summary.blamed is None:
        return []
    born = "" if summary.born is None else f", born in: {summary.born}"
    causes = [f"{rank}. {escaped(cause)}" for rank, cause in enumerate(summary.causes, start=1)]
    return [f"Causes in {escaped(summary.blamed)}{born}\n", *causes, ""]


def _effects(effects: Effects | None) -> list[str]:
    """What the factors decide: in words, and how many cells of every level fail, of the factors with several."""
    if effects is None:
        return []
    rows = [
        {
            "factor": escaped(effect.factor),
            "level": escaped(effect.level),
            "failing": f"{effect.failing}/{effect.cells}",
            "median of error over bound": "" if effect.excess is None else f"{effect.excess:.3g}",
        }
        for effect in effects.levels
        if len(effects.factors.get(effect.factor, [])) > 1
    ]
    sentences = [f"- {escaped(sentence)}" for sentence in effects.sentences]
    return [*sentences, *([""] if sentences else []), *([f"{markdown_table(pd.DataFrame(rows))}\n"] if rows else [])]


def _cells(summary: Summary) -> list[str]:
    return [summary_table(summary), ""] if summary.variants else []


def _left_out(number: int) -> str:
    return f"\nThe details of {number} variants are left out here for their size; comparison.json of each has them.\n"


def _cut(text: str, budget: int) -> str:
    """`text`, its end cut off where the table alone is larger than the budget."""
    encoded = text.encode()
    if len(encoded) <= budget:
        return text
    note = "\n\nCut off here for its size; summary.json has all of it.\n"
    whole = encoded[: budget - len(note.encode())].rpartition(b"\n")[0]
    return whole.decode() + note


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


def _cell_details(summary: Summary, name: str) -> str:
    comparison, forced = summary.variants[name], summary.teacher_forced.get(name)
    lines = comparison_lines(comparison) + (comparison_lines(forced) if forced else [])
    section = "\n".join([f"## {name}\n\n```text", *lines, "```\n"])
    unit_name = family_named(summary.family).unit_name
    both = _growth_table(comparison, forced, unit_name), _pictures_table(comparison, unit_name)
    tables = [table for table in both if table is not None]
    return "\n".join([section, *(f"{markdown_table(table)}\n" for table in tables)])


def _growth_table(comparison: Comparison, forced: Comparison | None, unit_name: str) -> pd.DataFrame | None:
    """The error of every unit's final latent, of either rollout.

    Where one does not pass, also the most that noise alone grows to by then: it says nothing of one that does.
    """
    if not comparison.growth:
        return None
    columns = {
        unit_name: [str(at.unit) for at in comparison.growth],
        "latent error": [_scientific(at.rel_l2) for at in comparison.growth],
    }
    if not comparison or (forced is not None and not forced):
        columns["of noise, at most"] = [_scientific(at.tolerance) for at in comparison.growth]
    if forced is not None:
        errors = {at.unit: _scientific(at.rel_l2) for at in forced.growth}
        columns["teacher-forced"] = [errors.get(at.unit, "") for at in comparison.growth]
    return pd.DataFrame(columns)


def _pictures_table(comparison: Comparison, unit_name: str) -> pd.DataFrame | None:
    measured = _measured(comparison)
    if measured.empty:
        return None
    single = all(metrics.at == PictureAt(metrics.at.unit) for metrics in comparison.pictures)
    return pd.DataFrame(
        {
            unit_name if single else "picture": [str(metrics.at) for metrics in comparison.pictures],
            "SSIM": measured["ssim"].map("{:.6f}".format),
            "mean abs d /255": measured["mean_abs"].map("{:.4f}".format),
            "max abs d /255": measured["max_abs"].astype(str),
            "PSNR dB": ["equal" if pd.isna(psnr) else f"{psnr:.1f}" for psnr in measured["psnr"]],
        }
    )


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
