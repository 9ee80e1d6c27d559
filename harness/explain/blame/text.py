"""A blame as lines for a terminal, and as a table of sites."""

from collections.abc import Iterator

from waypoint_parity.harness.explain.blame.result import Blame, Cause, Share, SiteErrors
from waypoint_parity.harness.judge.comparison_text import comparison_lines


def blame_lines(blame: Blame) -> list[str]:
    """The causes, the largest first, and whether they account for everything."""
    lines = comparison_lines(blame.comparison)[:2]
    for rank, cause in enumerate(blame.causes, start=1):
        lines += [f"  cause {rank} of {len(blame.causes)}:     {_what(cause)}", *_cause_lines(cause)]
    if not blame.causes:
        lines.append("  no site does anything wrong by itself")
    if blame.restored:
        lines.append(f"  restored:         {_restored(blame)}")
    for exchange in blame.exchanges:
        lines += [f"  exchanged:        {exchange.name}", *_share_lines(exchange.necessity, exchange.sufficiency)]
    lines += [f"  CONTRADICTION:    {contradiction}" for contradiction in blame.contradictions]
    lines += [f"  not measured:     {run}" for run in blame.unmeasured]
    return lines


def causes_in_brief(blame: Blame) -> list[str]:
    """A line for every cause, the largest first: what is wrong, where first, and its share of the error."""
    return [
        f"{_what(cause)}, first {cause.first}{'; ' + str(cause.proofs[0]) if cause.proofs else ''}"
        + ("" if cause.necessity is None else f"; with the reference's, {_share(cause.necessity)} of the error is gone")
        for cause in blame.causes
    ]


def ladder_lines(blame: Blame) -> list[str]:
    """Every site in the order of execution: its own error, and what it shows in a free-running session."""
    header = f"{'phase':9} {'step':>4}  {'site':46} {'local':>9} {'bound':>9} {'inherited':>9} {'gain':>9}"
    return [header, *(_rung(rung) for rung in blame.sites)]


def _rung(rung: SiteErrors) -> str:
    wrong = rung.local is None or rung.local > rung.bound
    numbers = " ".join(f"{_number(value):>9}" for value in (rung.local, rung.bound, rung.inherited, rung.gain))
    site = f"{rung.site}@{rung.branch}" if rung.branch else rung.site
    return f"{rung.phase:9} {rung.step:4}  {site:46} {numbers}{'  <- by itself' if wrong else ''}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _restored(blame: Blame) -> str:
    them = "it" if len(blame.causes) == 1 else "all of them"
    if blame.fed == "reference":
        return f"{blame.reference} with {them} from {blame.candidate} agrees with {blame.candidate}"
    return f"parity holds once {blame.candidate} has {them} from {blame.reference}"


def _what(cause: Cause) -> str:
    where = "" if cause.blocks is not None or cause.signature.layers == "none" else " of every block that has it"
    return f"{cause.name}{where} ({cause.group}): {cause.failed} of {cause.observed} observations wrong by themselves"


def _cause_lines(cause: Cause) -> Iterator[str]:
    yield f"    first:          {cause.first}"
    if cause.worst != cause.first:
        yield f"    worst:          {cause.worst}"
    yield from _share_lines(cause.necessity, cause.sufficiency)
    if cause.gain is not None:
        yield f"    gain:           a relative error of 1 at {cause.first.site} changes the picture by {cause.gain:.2g}"
    if cause.region_parts:
        yield f"    or before it:   {', '.join(cause.region_parts)}; map their sites to tell"
    shows = cause.signature
    tags = [*shows.onset, f"layers: {shows.layers}", f"norm {shows.norm}", shows.course, *shows.controls]
    yield f"    looks like:     {'; '.join(tags)}"
    for proof in cause.proofs:
        yield f"    {'wrong only:' if proof.by == 'extent' else 'is:':15} {proof}"
    for explanation in cause.explanations:
        yield f"    may be:         {explanation.kind}"
        yield f"      check:        {explanation.check}"


def _share_lines(necessity: Share | None, sufficiency: Share | None) -> Iterator[str]:
    if necessity is not None:
        yield f"    necessary:      with the reference's, {_share(necessity)} of the error is gone"
    if sufficiency is not None:
        yield f"    sufficient:     put into the reference, it makes {_share(sufficiency)} of the error"


def _share(share: Share) -> str:
    """The shares of the final picture; of all pictures where it does not reach that one."""
    names = {"mean_abs": "mean |d|", "ssim": "SSIM", "sharpness": "sharpness"}
    known = [(label, getattr(share, name)) for name, label in names.items()]
    told = [f"{_percent(value)} ({label})" for label, value in known if value is not None]
    if not told and share.all_pictures is not None:
        return f"{_percent(share.all_pictures)} (mean |d| of all pictures; the final one does not differ)"
    return ", ".join(told) or "nothing that counts"


def _percent(share: float) -> str:
    return f"{round(100 * share)}%"
