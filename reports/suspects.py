"""Suspects of a cell: what may be the cause, and what to check next."""

from dataclasses import dataclass, field

from waypoint_parity.harness.explain.blame.result import Blame, Cause, Share
from waypoint_parity.harness.judge.comparison import SiteResult
from waypoint_parity.harness.run.family import Part, part_named
from waypoint_parity.harness.run.sites import kind_of
from waypoint_parity.reports.run import CellReport


@dataclass(frozen=True)
class Suspect:
    """What may be wrong, why it is suspected, and what to check."""

    name: str
    because: list[str]
    checks: list[str] = field(default_factory=list)


def suspects(cell: CellReport) -> list[Suspect]:
    """The causes of a blame, the largest first; without one the part that diverged first, and those that it reads."""
    if cell.blame is not None:
        return [_blamed(cause) for cause in cell.blame.causes]
    first = cell.comparison.first
    if first is None:
        return []
    row = cell.family.sites.of(first.site, first.phase) or cell.family.sites.of(first.site)
    if row is None:
        return [Suspect(first.site, [f"first divergence: {first}"], ["what computes it, which is of no part"])]
    part = part_named(row.part, cell.family)
    checks = [f"the code of {part.name}, and how its weights are loaded"]
    found = [Suspect(_name(part), ["it diverges first"], checks)]
    if cell.comparison.slots:
        found[0].checks.append(cell.comparison.slots[0].message)
    unit = cell.family.unit_name
    return found + [
        Suspect(
            _name(other),
            [f"{part.name} is computed from it; it agreed where it was observed"],
            [f"whether what is handed on is what was observed: dtype, layout, {unit} and step"],
        )
        for other in _read_by(cell, first)
        if other is not part
    ]


def _read_by(cell: CellReport, first: SiteResult) -> list[Part]:
    """The parts that a site is computed from, of those that this session has; in the order of execution."""
    family = cell.family
    row = family.sites.of(first.site, first.phase) or family.sites.of(first.site)
    passes = [kind for manifest in cell.manifests.values() for kind in manifest.passes or []]
    shown = {kind_of(name.partition("@")[0]) for kind in passes for name in kind.sites}
    reads = [name for name in (() if row is None else row.reads) if not shown or kind_of(name) in shown]
    named = family.sites.parts_at(reads)
    return [part for part in family.parts if part.name in named]


def _name(part: Part) -> str:
    return f"{part.name} ({part.group})"


def shares(share: Share | None) -> dict[str, float | None]:
    """The shares by what of the picture they are of; None where one was not measured."""
    names = {"mean |d|": "mean_abs", "SSIM": "ssim", "sharpness": "sharpness", "mean |d| of all": "all_pictures"}
    return {label: getattr(share, name, None) for label, name in names.items()}


def caveats(blame: Blame) -> list[str]:
    """What limits how far a blame can be relied on."""
    lines = [f"contradiction: {each}" for each in blame.contradictions]
    lines += [f"not measured: {each}" for each in blame.unmeasured]
    return lines + ([f"diverges nevertheless: {blame.left}"] if blame.left else [])


def _blamed(cause: Cause) -> Suspect:
    shows = cause.signature
    looks = "; ".join([*shows.onset, f"layers: {shows.layers}", f"norm {shows.norm}", shows.course, *shows.controls])
    because = [f"looks like: {looks}"]
    because += [f"or the fault lies before it: {', '.join(cause.region)}"] if cause.region else []
    return Suspect(
        f"{cause.name} ({cause.group})", because, [f"{each.kind}: {each.check}" for each in cause.explanations]
    )
