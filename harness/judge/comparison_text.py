"""A comparison as lines for a terminal."""

from waypoint_parity.harness.judge.comparison import LIVE, TEACHER_FORCED, Comparison, WorstAtSite, distance_text
from waypoint_parity.harness.judge.table import ALLOWED_MISSING
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import is_input
from waypoint_parity.harness.run.sites import Kind, SiteTable

_MOST_REASONS = 10


def comparison_lines(comparison: Comparison, *, unanswered: bool = True) -> list[str]:
    """A comparison in a few lines, the verdict first; with what is `unanswered` of its two questions."""
    rollout = f", {TEACHER_FORCED}" if comparison.rollout == TEACHER_FORCED else ""
    unseen = "; no picture was compared" if _has_no_picture(comparison) else ""
    lines = [f"{comparison.verdict}: {comparison.candidate} against {comparison.reference}{rollout}{unseen}"]
    lines += [f"  contradiction:    {each}" for each in comparison.contradictions[:_MOST_REASONS]]
    if (more := len(comparison.contradictions) - _MOST_REASONS) > 0:
        lines.append(f"  contradiction:    and {more} more")
    if comparison.reason is not None:
        return [*lines, f"  {comparison.reason}", "  no score is given: the two runs were not asked the same question"]
    if comparison.first is not None:
        lines.append(f"  first divergence: {comparison.first}")
    if comparison.larger is not None:
        lines.append(f"  but:              {comparison.larger}")
    if comparison.slots:
        lines.append(f"  first wrong slot: {comparison.slots[0].message}")
    if comparison.worst is not None:
        lines.append(f"  worst site:       {comparison.worst}")
    if comparison.horizon is not None:
        lines.append(f"  horizon:          unit {comparison.horizon}, the first with a latent off by more than noise")
    lines += _pictures(comparison)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(comparison.counts.items()))
    lines.append(f"  observations:     {counts}; {_coverage(comparison)}")
    bounds = ", ".join(f"{name} {value}" for name, value in comparison.bounds.items() if name != "kind")
    exact = comparison.precision is not None
    first = _questions(comparison)
    lines.append(
        f"  judged by:        {first}{comparison.bounds['kind']} ({bounds}), errors from {comparison.evidence}"
    )
    lines += [*_mathematics(comparison, unanswered=unanswered), *_precision(comparison, unanswered=unanswered)]
    lines += [*([] if exact else _sensitivity(comparison)), *_distances_from_truth(comparison)]
    return [*lines, *(f"  note:             {note}" for note in comparison.notes)]


def _has_no_picture(comparison: Comparison) -> bool:
    """Whether a session of a family that makes pictures was judged without any."""
    if comparison.reason is not None or not comparison.family or comparison.pictures:
        return False
    return bool(family_named(comparison.family).sites.sites(Kind.PICTURE))


def _pictures(comparison: Comparison) -> list[str]:
    """How many pictures were compared, and the worst of them."""
    if not comparison.pictures:
        return []
    worst = max(comparison.pictures, key=lambda metrics: metrics.mean_abs)
    missing = sum(rung.failed for rung in comparison.sites if rung.rel_l2 is None and _is_picture(comparison, rung))
    lacking = f", {missing} missing" if missing else ""
    figures = f"SSIM {worst.ssim:.6f}, mean |d| {worst.mean_abs:.4g} of 255 in unit {worst.at}"
    return [f"  pictures:         {len(comparison.pictures)} compared{lacking}; the worst: {figures}"]


def _is_picture(comparison: Comparison, rung: WorstAtSite) -> bool:
    return family_named(comparison.family).sites.kind(rung.site, rung.phase) is Kind.PICTURE


def _questions(comparison: Comparison) -> str:
    """What judged first, and how much of what was compared."""
    asked = {"mathematics": comparison.mathematics, "precision": comparison.precision}
    known = [name for name, found in asked.items() if found is not None]
    most = max((found.observations for found in asked.values() if found is not None), default=0)
    return f"{' and '.join(known)} at {most} observations; elsewhere by " if known else ""


def _mathematics(comparison: Comparison, *, unanswered: bool) -> list[str]:
    """Whether both sides compute the same, rounding apart."""
    found = comparison.mathematics
    if found is None and comparison.precision is None:
        return []
    if found is None:
        live = "no exact shadow follows the candidate"
        why = live if comparison.evidence == LIVE else "the candidate's dump has no exact values"
        return [f"  mathematics:      not known: {why}; judged by precision alone"]
    same = "the same at" if found.same else "NOT the same: of"
    lines = [
        f"  mathematics:      {same} {found.observations} observations, exact values at most "
        f"{distance_text(found.worst)} apart, bound {found.bound:.0e}"
    ]
    if found.lost:
        lines.append(f"    not known:      {found.lost} observations of {found.lost_sites} sites could not be followed")
    if found.in_constants:
        lines.append("    on purpose:     the sides differ in which constants they round; unrounded they are the same")
    if not unanswered:
        return lines
    reasons = [(side, reason) for side, reasons in found.unfollowed.items() for reason in reasons]
    return [*lines, *(f"    not followed:   {side}: {reason}" for side, reason in reasons[:_MOST_REASONS])]


def _precision(comparison: Comparison, *, unanswered: bool) -> list[str]:
    """Whether the candidate is as precise as rounding allows."""
    found = comparison.precision
    if found is None:
        return []
    units = ", ".join(map(str, found.units)) if len(found.units) < 8 else f"{found.units[0]} to {found.units[-1]}"
    at = f" ({found.at})" if found.at else ""
    # Dumps are not fed: their errors hold all that was inherited, and so do their bounds.
    whose = "of a site by itself" if comparison.evidence == LIVE else "up to a site"
    line = f"  precision:        the largest error {whose} is {found.largest}{at}; "
    line += f"{found.observations} observations in unit {units}, {found.lanes} disturbed lanes"
    if not unanswered:
        return [line]
    caught = []
    if found.caught is not None:
        least, largest = found.caught
        caught = [f"    caught from:    relative L2 {least:.1e} to {largest:.1e}, by the site"]
    return [
        line,
        *caught,
        *(f"    gain:           {gain}" for gain in found.gains),
        *(f"    not judged:     {reason}" for reason in found.unjudged),
    ]


def _sensitivity(comparison: Comparison) -> list[str]:
    """The smallest errors that would have been caught, at the most and at the least sensitive site."""
    rungs = [rung for rung in comparison.sites if rung.tolerance and not is_input(rung.site)]
    if not rungs:
        return []
    least, most = (choose(rungs, key=lambda rung: rung.tolerance) for choose in (min, max))
    return [f"  caught from:      relative L2 {_limit(least)} to {_limit(most)}"]


def _limit(rung: WorstAtSite) -> str:
    return f"{rung.tolerance:.1e} ({rung.site}, {rung.phase} step {rung.step})"


def _distances_from_truth(comparison: Comparison) -> list[str]:
    """How far both sides are from an fp32 run of the reference: the final latents, and the pictures."""
    sites = family_named(comparison.family).sites if comparison.family else SiteTable(())
    kinds = (Kind.LATENT, Kind.PICTURE)
    last = {rung.site: rung for rung in comparison.sites if sites.kind(rung.site, rung.phase) in kinds}
    return [
        f"  from fp32:        {site} {rung.reference_to_truth:.1e} of the reference, {rung.candidate_to_truth:.1e}"
        for site, rung in last.items()
        if rung.reference_to_truth is not None and rung.candidate_to_truth is not None
    ]


def _coverage(comparison: Comparison) -> str:
    allowed = comparison.counts.get(ALLOWED_MISSING, 0)
    return f"{comparison.compared} of {comparison.expected} expected ones compared" + (
        f", {allowed} allowed to be missing" if allowed else ""
    )
