"""Baselines and checks as lines for a terminal."""

from pathlib import Path

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.sweep.baseline.check import Check, EntryCheck, Outcome
from waypoint_parity.harness.sweep.baseline.document import Baseline, read_baseline


def accepted_lines(baseline: Baseline, folder: Path) -> list[str]:
    """What was stored, what of it did not hold when it was accepted, and what is not in it."""
    lines = [f"{folder}: {_contents(baseline)}"]
    failing = [name for name, entry in baseline.entries.items() if entry.verdict in ("DIVERGED", "MISSING")]
    if failing:
        lines.append(f"  note: parity did not hold in {', '.join(failing)}; what is accepted so is no regression later")
    if baseline.failed:
        lines.append(f"  note: not in it, because they failed to run: {', '.join(baseline.failed)}")
    return lines


def stored_lines(folders: list[Path]) -> list[str]:
    """One line for each baseline of a store."""
    lines = []
    for folder in folders:
        try:
            lines.append(f"{folder.name}: {_contents(read_baseline(folder))}")
        except UserError as error:
            lines.append(f"{folder.name}: damaged, {error.found}")
    return lines or ["no baselines"]


def check_lines(check: Check) -> list[str]:
    """A check, the outcome first; whatever failed in full, as `diff` prints it, and what passed in a line."""
    counts = {outcome: sum(entry.outcome is outcome for entry in check.entries) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    lines = [f"{check.outcome}: against the baseline {check.baseline}, {told}"]
    for entry in check.entries:
        lines += _entry_lines(entry)
    if check.not_in_baseline:
        lines.append(f"not in the baseline, and not checked: {', '.join(check.not_in_baseline)}")
    return lines


def _entry_lines(entry: EntryCheck) -> list[str]:
    lines = [f"{entry.name}: {entry.outcome}{_worst(entry)}"]
    if entry.outcome is Outcome.MISSING:
        lines.append("  the run has no such dump")
    if entry.outcome is Outcome.STALE:
        lines += [f"  differs:  {difference}" for difference in entry.differences]
        nothing = "nothing was compared: the run was given something else"
        lines.append(f"  {nothing if entry.comparison is None else 'the numbers below decide nothing'}")
        lines.append("  accept the run anew, or the difference with --accept-provenance")
    lines += [f"  accepted: {difference}" for difference in entry.accepted]
    lines += [f"  note:     {note}" for note in entry.notes]
    if entry.comparison is not None and not entry:
        if entry.outcome is Outcome.REGRESSED and entry.comparison.reason is not None:
            lines.append("  the run was given what the baseline was given, and consumed something else:")
        lines += [f"  {line}" for line in comparison_lines(entry.comparison)]
    return lines


def _worst(entry: EntryCheck) -> str:
    """The worst site of a dump that is within noise."""
    if entry.outcome is not Outcome.WITHIN_NOISE or entry.comparison is None:
        return ""
    return f", worst site {entry.comparison.worst}"


def _contents(baseline: Baseline) -> str:
    implementations = ", ".join(dict.fromkeys(entry.implementation for entry in baseline.entries.values()))
    dumps = "1 dump" if len(baseline.entries) == 1 else f"{len(baseline.entries)} dumps"
    return f"{dumps} of {implementations}, {len(baseline.files)} files, accepted {baseline.accepted}"
