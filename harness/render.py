"""A comparison as lines for a terminal."""

from harness.comparison import Comparison
from harness.ledger import ALLOWED_MISSING


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison in a few lines, the verdict first."""
    lines = [f"{comparison.verdict}: {comparison.candidate} against {comparison.reference}"]
    if comparison.reason is not None:
        return [*lines, f"  {comparison.reason}", "  no score is given: the two runs were not asked the same question"]
    if comparison.first is not None:
        lines.append(f"  first divergence: {comparison.first}")
    if comparison.worst is not None:
        lines.append(f"  worst site:       {comparison.worst}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(comparison.counts.items()))
    lines.append(f"  observations:     {counts}; {_coverage(comparison)}")
    bounds = ", ".join(f"{kind} {bound:.0e}" for kind, bound in comparison.tolerance.items())
    lines.append(f"  judged by:        fixed tolerances ({bounds}), errors from {comparison.evidence}")
    return lines


def _coverage(comparison: Comparison) -> str:
    allowed = comparison.counts.get(ALLOWED_MISSING, 0)
    return f"{comparison.compared} of {comparison.expected} expected ones compared" + (
        f", {allowed} allowed to be missing" if allowed else ""
    )
