"""A scorecard as a table for a terminal."""

from waypoint_parity.harness.explain.blame.result import Share
from waypoint_parity.harness.explain.scorecard.card import CleanRow, FaultRow, Scorecard, StackedRow


def scorecard_lines(card: Scorecard) -> list[str]:
    """Every fault, every draw of several, every alarm, and the sums."""
    lines = [f"{'fault':24} {'first site':10} {'blamed':28} {'rank':>4} {'nec.':>5} {'suff.':>5}  smallest size seen"]
    lines += [_row(row) for row in card.rows]
    if card.stacked_rows:
        lines += ["", "several at once"]
        lines += [_stacked(row) for row in card.stacked_rows]
    alarms = [_alarm(row) for row in card.clean_rows if row.alarm is not None]
    return [*lines, *([""] if alarms else []), *alarms, "", *_sums(card)]


def _row(row: FaultRow) -> str:
    seen = "right" if row.first_site_right else ("MISSED" if not row.detected else "WRONG")
    blamed = ", ".join(row.blamed) or "nothing"
    shares = " ".join(f"{_share(share):>5}" for share in (row.necessity, row.sufficiency))
    size = "" if row.smallest is None else f"  {row.smallest:.1e} {row.unit}"
    line = f"{row.name:24} {seen:10} {blamed:28} {row.rank or '-':>4} {shares}{size}"
    notes = [] if row.first_site_right else [f"seen first at {row.first}, expected {row.expected}"]
    notes += [] if row.rank == 1 else [f"the true part is {row.part}"]
    notes += [f"{'wrong only' if proof.by == 'extent' else 'is'}: {proof}" for proof in row.proven]
    notes += row.contradictions
    return "\n".join([line, *(f"{'':24}   {note}" for note in notes)])


def _share(share: Share | None) -> str:
    value = None if share is None else share.mean_abs if share.mean_abs is not None else share.all_pictures
    return "-" if value is None else f"{value:.0%}"


def _stacked(row: StackedRow) -> str:
    line = f"  {' + '.join(row.names)}: {', '.join(row.blamed) or 'nothing'} blamed"
    notes = [f"not named: {', '.join(row.missed)}"] if row.missed else []
    notes += [f"blamed without a fault: {', '.join(row.unfounded)}"] if row.unfounded else []
    return "\n".join([line, *(f"    {note}" for note in [*notes, *row.contradictions])])


def _alarm(row: CleanRow) -> str:
    return f"FALSE ALARM: {row.name} ({row.stage}), {row.verdict}: {row.alarm}"


def _sums(card: Scorecard) -> list[str]:
    return [
        f"faults           {card.faults}: {card.detected} detected, {card.first_site_right} at the right first site, "
        f"{card.group_right} in the right group, {card.blame_top1} with the true part blamed first",
        f"picture error    explained to 90 % and more, both ways, in {card.explained} of {card.explainable}",
        f"proven           in {card.proven} of {card.faults}, by a hypothesis or a relation; "
        f"{sum(len(row.refuted) for row in card.rows)} kinds struck off",
        f"several at once  {card.stacked}: all named in {card.stacked_named}",
        f"without fault    {card.clean_runs}: {card.false_alarms} false alarms",
        *(f"FALLS SHORT      {shortfall}" for shortfall in card.shortfalls),
        f"{card.seconds:.0f} s",
    ]
