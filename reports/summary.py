"""The summary of a parity run: a table for the terminal, and the Markdown file."""

import pandas as pd

from harness.comparison import Comparison, SiteResult
from harness.metrics import SSIM_VARIANT
from harness.parity import Summary
from harness.render import comparison_lines


def summary_table(summary: Summary) -> str:
    """One row per variant, in Markdown that also lines up in a terminal."""
    rows = [_variant_row(summary, name) for name in summary.variants]
    return markdown_table(pd.DataFrame(rows))


def summary_markdown(summary: Summary) -> str:
    """The whole run: the verdict, one row per variant, then each variant with its frames."""
    head = (
        f"# Parity: {summary.verdict}\n\n"
        f"`{summary.candidate}` against `{summary.reference}` on `{summary.checkpoint}` "
        f"(digest {summary.checkpoint_digest[:12]}), {summary.numerics['dtype']} on {summary.numerics['device']}, "
        f"{len(summary.variants)} variants in {summary.seconds:.0f} s.\nSSIM: {SSIM_VARIANT}.\n"
    )
    details = [_variant_details(summary, name) for name in summary.variants]
    return "\n".join([head, summary_table(summary), "", *details])


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table whose columns are padded to line up as plain text; every cell is a string already."""
    widths = [max(map(len, [str(column), *frame[column]])) for column in frame.columns]
    lines = [list(frame.columns), ["-" * width for width in widths], *frame.itertuples(index=False)]
    return "\n".join(
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _variant_row(summary: Summary, name: str) -> dict[str, str]:
    comparison, forced = summary.variants[name], summary.teacher_forced.get(name)
    worst = comparison.worst
    frames = _frames(comparison)
    row = {
        "variant": name,
        "verdict": summary.verdict_of(name),
        "first diverging site": comparison.reason or _where(comparison.first) or "none",
        "worst site error": _scientific(worst.rel_l2) if worst else "",
        "at": _where(worst),
        "horizon": _horizon(comparison),
        "coverage": f"{comparison.compared}/{comparison.expected}",
        "min SSIM": f"{frames['ssim'].min():.6f}" if len(frames) else "",
        "max mean abs d": f"{frames['mean_abs'].max():.4f}" if len(frames) else "",
    }
    if forced is None:
        return row
    first = forced.reason or _where(forced.first) or "none"
    return row | {"teacher-forced": f"{forced.verdict}, first {first}", "its horizon": _horizon(forced)}


def _variant_details(summary: Summary, name: str) -> str:
    comparison, forced = summary.variants[name], summary.teacher_forced.get(name)
    lines = comparison_lines(comparison) + (comparison_lines(forced) if forced else [])
    section = "\n".join([f"## {name}\n\n```text", *lines, "```\n"])
    tables = [table for table in (_growth_table(comparison, forced), _frames_table(comparison)) if table is not None]
    return "\n".join([section, *(f"{markdown_table(table)}\n" for table in tables)])


def _growth_table(comparison: Comparison, forced: Comparison | None) -> pd.DataFrame | None:
    """The error of every frame's final latent, of either rollout, and the most that noise alone grows to by then."""
    if not comparison.growth:
        return None
    columns = {
        "frame": [str(at.frame) for at in comparison.growth],
        "latent error": [_scientific(at.rel_l2) for at in comparison.growth],
        "of noise, at most": [_scientific(at.tolerance) for at in comparison.growth],
    }
    if forced is not None:
        errors = {at.frame: _scientific(at.rel_l2) for at in forced.growth}
        columns["teacher-forced"] = [errors.get(at.frame, "") for at in comparison.growth]
    return pd.DataFrame(columns)


def _frames_table(comparison: Comparison) -> pd.DataFrame | None:
    frames = _frames(comparison)
    if frames.empty:
        return None
    return pd.DataFrame(
        {
            "frame": frames["frame"].astype(str),
            "SSIM": frames["ssim"].map("{:.6f}".format),
            "mean abs d /255": frames["mean_abs"].map("{:.4f}".format),
            "max abs d /255": frames["max_abs"].astype(str),
            "PSNR dB": ["equal" if pd.isna(psnr) else f"{psnr:.1f}" for psnr in frames["psnr"]],
        }
    )


def _frames(comparison: Comparison) -> pd.DataFrame:
    columns = ("frame", "ssim", "mean_abs", "max_abs", "psnr")
    rows = [[getattr(metrics, column) for column in columns] for metrics in comparison.frames]
    return pd.DataFrame(rows, columns=list(columns))


def _horizon(comparison: Comparison) -> str:
    """The first frame whose error exceeds what noise grows to, where errors were measured frame by frame."""
    if not comparison.growth:
        return ""
    return "none" if comparison.horizon is None else f"frame {comparison.horizon}"


def _where(result: SiteResult | None) -> str:
    return f"{result.site} (f{result.frame} {result.phase}{result.step})" if result else ""


def _scientific(value: float | None) -> str:
    return "no distance" if value is None else f"{value:.1e}"
