"""What is wrong with a dump, in lines for a terminal."""

from collections.abc import Iterator

from waypoint_parity.harness.compare.dump_check import DumpCheck
from waypoint_parity.harness.record.record_check import Problem


def dump_check_lines(check: DumpCheck) -> list[str]:
    """The problems of a dump, kind by kind."""
    number = sum(check.counts.values())
    alone = f", {check.statistics_alone} of them statistics alone (no sketch)" if check.statistics_alone else ""
    found = f"{number or 'no'} problem{'s' * (number != 1)}"
    return [f"{check.dump}: {found}, {check.records} records{alone}", *_kinds(check)]


def _kinds(check: DumpCheck) -> Iterator[str]:
    for kind, number in check.counts.items():
        told = [problem for problem in check.problems if problem.kind == kind]
        yield f"{kind}: {number}" + (f", the first {len(told)} of them" if len(told) < number else "")
        for problem in told:
            yield from _lines(problem)


def _lines(problem: Problem) -> list[str]:
    line = "" if problem.line is None else f", line {problem.line}"
    what = " ".join(filter(None, (problem.key, problem.field and f"[{problem.field}]")))
    return [
        f"  {problem.file}{line}{what and f': {what}'}",
        f"    found:    {problem.found}",
        f"    expected: {problem.expected}",
        f"    do:       {problem.do}",
    ]
