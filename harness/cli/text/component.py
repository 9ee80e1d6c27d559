"""One component of both sides alone, as lines for a terminal."""

from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.component import ComponentParity, SiteOfComponent

# Rows of sites that pass: those nearest to their bounds; and of those that fail, the first ones.
_NEAREST, _MOST = 5, 20
_HEAD = ("site", "phase", "calls", "of bound", "error", "bound", "atol", "rtol")
_LONGEST = 40


def component_lines(found: ComponentParity) -> list[str]:
    """The verdict, the sites that fail or come nearest to it, and what was not judged."""
    lines = [f"{found.verdict}: {found.component} of {found.candidate} against {found.reference}, alone"]
    where = f"{found.calls} calls of {found.scenario}, each on inputs recorded from {found.reference}"
    lines.append(f"  judged:           {where}")
    if found.first is not None:
        lines.append(f"  first divergence: {found.first.site} at {found.first.at}")
    lines += [f"  missing:          {site}" for site in found.missing[:_MOST]]
    lines += [f"  not comparable:   {key}, of the candidate alone or in another shape" for key in found.unlike[:_MOST]]
    lines += [f"  not judged:       {each}" for each in found.unjudged]
    failing = [site for site in found.sites if not site.verdict.passes]
    nearest = sorted((site for site in found.sites if site.verdict is Verdict.WITHIN_NOISE), key=_excess)[-_NEAREST:]
    rows = [_HEAD, *map(_row, failing[:_MOST] or sorted(nearest, key=found.sites.index))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines += [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    equal = sum(site.verdict is Verdict.IDENTICAL for site in found.sites)
    lines.append(f"  {len(found.sites)} sites: {len(failing)} diverge, {equal} are equal bit for bit")
    lines.append("  atol, rtol: torch.testing.assert_close passes with it, beside its own default of the other")
    return lines


def _excess(site: SiteOfComponent) -> float:
    return float("inf") if site.excess is None else site.excess


def _row(site: SiteOfComponent) -> tuple[str, ...]:
    name = site.site if len(site.site) <= _LONGEST else f"…{site.site[1 - _LONGEST :]}"
    numbers = (site.error, site.bound, site.atol, site.rtol)
    excess = "other" if site.excess is None else f"{site.excess:.2g}"
    return (
        name,
        site.phase,
        str(site.observations),
        excess,
        *("-" if each is None else f"{each:.1e}" for each in numbers),
    )
