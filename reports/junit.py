"""Results as JUnit XML, which CI hosts show.

Of a parity run: a suite for every cell, a case for every part and unit. Of frames alone: a case for every frame.
"""

import re
from collections.abc import Iterable
from xml.etree import ElementTree

from waypoint_parity.harness.judge.comparison import (
    TEACHER_FORCED,
    Comparison,
    SiteResult,
    Verdict,
    WorstAtSite,
    where_in,
)
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.judge.frames import FramesComparison
from waypoint_parity.harness.run.family import Family, family_named
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.sweep.summary import CellFailure, Summary

# What no XML 1.0 document may hold, not even escaped: https://www.w3.org/TR/xml/#charsets
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Sites of engines that have others than the official model.
_OTHER = "other sites"


def junit_xml(summary: Summary) -> str:
    """The run as a JUnit document.

    The first case of a suite is the verdict on its cell, which fails with it and says where the first divergence is; a
    cell that cannot be compared, and one that did not run, is an error.
    """
    suites, family = [], family_named(summary.family)
    for name, comparison in summary.variants.items():
        cell = summary.cells[name]
        told = {**cell.factors, "reused": str(cell.reused).lower()}
        suites.append(_suite(name, comparison, cell.seconds, told, family))
        if name in summary.teacher_forced:
            # The time of a cell is that of both its rollouts, and is told once.
            forced = summary.teacher_forced[name]
            suites.append(_suite(f"{name} ({TEACHER_FORCED})", forced, 0.0, told, family))
    suites += [_failed(failure) for failure in summary.failures]
    return _document(f"{', '.join(summary.candidates)} against {summary.reference}", suites, summary.seconds)


def frames_junit(comparison: FramesComparison) -> str:
    """A comparison of frames as a JUnit document: a case for its verdict, and one for every frame."""
    title = f"{comparison.candidate} against {comparison.reference}"
    cases = [_case(title, "verdict"), *(_case(title, f"frame {at.frame}") for at in comparison.frames)]
    if not comparison:
        first = "no frame, but the mean over all"
        if comparison.first is not None:
            first = f"first to fail: {comparison.frames[comparison.first].called}"
        cases[0].append(_told("failure", comparison.verdict, first, "\n".join([first, *comparison.notes])))
    for case, at in zip(cases[1:], comparison.frames, strict=True):
        if not at.verdict.passes:
            wrong = at.note or f"mean |d| {at.mean_abs:.4g} of 255, bound {at.bound or 0.0:.4g}"
            case.append(_told("failure", at.verdict, wrong, wrong))
    return _document(title, [_closed(title, cases, 0.0, {})], 0.0)


def _document(title: str, suites: list[ElementTree.Element], seconds: float) -> str:
    root = _element("testsuites", name=title, **_totals(suites, "tests", "failures", "errors"))
    root.set("time", f"{seconds:.3f}")
    root.extend(suites)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _suite(
    name: str, comparison: Comparison, seconds: float, factors: dict[str, str], family: Family
) -> ElementTree.Element:
    verdict, lines = _case(name, "verdict", seconds), "\n".join(comparison_lines(comparison))
    if comparison.verdict is Verdict.INCOMPARABLE:
        verdict.append(_told("error", comparison.verdict, str(comparison.reason), lines))
    elif not comparison:
        first = comparison.headline if comparison.contradictions else f"first divergence: {comparison.headline}"
        verdict.append(_told("failure", comparison.verdict, first, lines))
    cases = [verdict, *_part_cases(name, comparison, family), *_unit_cases(name, comparison, family)]
    return _closed(name, cases, seconds, factors)


def _part_cases(name: str, comparison: Comparison, family: Family) -> Iterable[ElementTree.Element]:
    """A case for every part of the model, in execution order: it fails where one of the part's sites does."""
    rungs: dict[str, list[WorstAtSite]] = {part.name: [] for part in family.parts}
    for rung in comparison.sites:
        rungs.setdefault(_part(rung.key, family), []).append(rung)
    for part, of in rungs.items():
        case = _case(f"{name}.parts", part)
        if not of:
            ElementTree.SubElement(case, "skipped", message="no observation")
        elif any(rung.failed for rung in of):
            here = [failure for failure in comparison.failures if _part(failure.key, family) == part]
            _fail(case, comparison, str(here[0]) if here else _worst(of))
        yield case


def _unit_cases(name: str, comparison: Comparison, family: Family) -> Iterable[ElementTree.Element]:
    """A case for every unit that was decoded: it fails where a picture does, or where its latent is off."""
    decoded = {picture.at.unit for picture in comparison.pictures} | {latent.unit for latent in comparison.growth}
    failed = [failure for failure in comparison.failures if family.sites.kind(failure.site) is Kind.PICTURE]
    for unit in sorted(decoded | {failure.unit for failure in failed}):
        called = f"{family.unit_name} {unit}"
        case = _case(f"{name}.{family.unit_name}s", called)
        if not comparison and (wrong := _wrong_in(unit, called, comparison, failed)):
            _fail(case, comparison, wrong)
        yield case


def _wrong_in(unit: int, called: str, comparison: Comparison, failed: Iterable[SiteResult]) -> str | None:
    """What is wrong with a unit, its latent first; None where nothing is. `failed`: pictures of whatever unit."""
    for latent in comparison.growth:
        if latent.unit == unit and (latent.rel_l2 is None or latent.rel_l2 > latent.tolerance):
            error = "has no distance" if latent.rel_l2 is None else f"relative L2 {latent.rel_l2:.2e}"
            return f"the final latent of {called}: {error}, of noise at most {latent.tolerance:.2e}"
    for failure in failed:
        if failure.unit == unit:
            return str(failure)
    # Only the first failures are kept; the metrics of every picture are.
    for picture in comparison.pictures:
        if picture.at.unit == unit and picture.bound is not None and not picture.within_noise:
            return f"picture {picture.at}: relative L2 {picture.rel_l2}, of noise at most {picture.bound:.2e}"
    return None


def _failed(failure: CellFailure) -> ElementTree.Element:
    """The suite of a cell that did not run."""
    case = _case(failure.name, "run")
    first = failure.message.partition("\n")[0]
    case.append(_told("error", "did not run", first, failure.traceback or failure.message))
    return _closed(failure.name, [case], 0.0, failure.factors)


def _closed(
    name: str, cases: list[ElementTree.Element], seconds: float, factors: dict[str, str]
) -> ElementTree.Element:
    """A suite of these cases, counted."""
    counts = {
        counted: str(sum(case.find(kind) is not None for case in cases))
        for counted, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    suite = _element("testsuite", name=name, tests=str(len(cases)), **counts)
    suite.set("time", f"{seconds:.3f}")
    if factors:
        properties = ElementTree.SubElement(suite, "properties")
        properties.extend(_element("property", name=factor, value=level) for factor, level in factors.items())
    suite.extend(cases)
    return suite


def _totals(suites: list[ElementTree.Element], *counted: str) -> dict[str, str]:
    return {name: str(sum(int(suite.attrib[name]) for suite in suites)) for name in counted}


def _case(suite: str, name: str, seconds: float = 0.0) -> ElementTree.Element:
    return _element("testcase", classname=suite, name=name, time=f"{seconds:.3f}")


def _fail(case: ElementTree.Element, comparison: Comparison, first: str) -> None:
    """The case fails: with the first divergence there, and with that of the whole cell."""
    text = f"{first}\nfirst divergence of the cell: {comparison.headline}"
    case.append(_told("failure", comparison.verdict, first, text))


def _told(kind: str, of: str, message: str, text: str) -> ElementTree.Element:
    element = _element(kind, type=of, message=message)
    element.text = _allowed(text)
    return element


def _element(tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.Element(tag, {name: _allowed(value) for name, value in attributes.items()})


def _allowed(text: str) -> str:
    return _FORBIDDEN.sub("", text)


def _part(key: Key, family: Family) -> str:
    row = family.sites.of(key.site, key.phase) or family.sites.of(key.site)
    return _OTHER if row is None else row.part


def _worst(rungs: list[WorstAtSite]) -> str:
    """The worst of some rungs, where the first failure was not kept."""
    worst = max((rung for rung in rungs if rung.failed), key=lambda rung: (rung.excess, rung.distance))
    error = "no distance" if worst.rel_l2 is None else f"relative L2 {worst.rel_l2:.2e}"
    judged = worst.by_itself or f"{error}, tolerance {worst.tolerance:.1e}"
    return f"{worst.site} at {where_in(worst.key)}: {judged}; {worst.failed} of {worst.observations} failed"
