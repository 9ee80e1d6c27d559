"""Suspects of a cell: what may be the cause, and what to check next."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from waypoint_parity.harness.explain.blame.flow import flow
from waypoint_parity.harness.explain.blame.parts import Part, part_of, parts_at
from waypoint_parity.harness.explain.blame.result import Blame, Cause, Share
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.geometry import read_geometry
from waypoint_parity.reports.run import SCENARIO_NAME, CellReport


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
    part = part_of(first.key)
    checks = [f"the code of {part.name}, and how its weights are loaded"]
    found = [Suspect(_name(part), [f"first divergence: {first}"], checks)]
    if cell.comparison.ring:
        found[0].checks.append(cell.comparison.ring[0].message)
    return found + [
        Suspect(
            _name(other),
            [f"{part.name} is computed from it; it agreed where it was observed"],
            ["whether what is handed on is what was observed: dtype, layout, frame and step"],
        )
        for other in _read_by(cell, first.site)
        if other is not part
    ]


def _read_by(cell: CellReport, site: str) -> list[Part]:
    """The parts that a site is computed from, by the wiring of the model; none where its config is not in reach."""
    reference = cell.manifests.get("reference")
    geometry = None if reference is None else read_geometry(Path(reference.checkpoint_origin))
    if geometry is None:
        return []
    wiring = flow(*geometry, image="image0" in (reference.passes or {}) if reference else False)
    return parts_at(wiring.reads.get(site, ()))


def _name(part: Part) -> str:
    return f"{part.name} ({part.family})"


def blame_command(cell: CellReport, summary: Summary) -> str:
    """The command that searches the causes of a cell, as a shell reads it."""
    numerics = cell.manifests["reference"].numerics if "reference" in cell.manifests else summary.numerics
    words = ["waypoint-parity", "blame", "--reference", cell.comparison.reference]
    words += ["--candidate", cell.comparison.candidate, "--checkpoint", summary.checkpoint]
    words += ["--scenario", str(cell.folder / SCENARIO_NAME), "--dtype", numerics.get("dtype", "fp32")]
    words += ["--device", numerics.get("device", "cpu"), "--out", str(cell.folder / "blame")]
    return shlex.join(words)


def shares(share: Share | None) -> dict[str, float | None]:
    """The shares by what of the picture they are of; None where one was not measured."""
    names = {"mean |d|": "mean_abs", "SSIM": "ssim", "sharpness": "sharpness", "mean |d| of all frames": "all_frames"}
    return {label: getattr(share, name, None) for label, name in names.items()}


def caveats(blame: Blame) -> list[str]:
    """What limits how far a blame can be relied on."""
    lines = [f"contradiction: {each}" for each in blame.contradictions]
    lines += [f"not measured: {each}" for each in blame.unmeasured]
    return lines + ([f"diverges nevertheless: {blame.left}"] if blame.left else [])


def _blamed(cause: Cause) -> Suspect:
    shows = cause.signature
    looks = "; ".join([*shows.onset, f"layers: {shows.layers}", f"norm {shows.norm}", shows.course, *shows.controls])
    because = [f"{cause.failed} of {cause.observed} observations wrong by themselves, first {cause.first}"]
    because += [f"looks like: {looks}"]
    because += [f"or the fault lies before it: {', '.join(cause.region)}"] if cause.region else []
    return Suspect(
        f"{cause.name} ({cause.family})", because, [f"{each.kind}: {each.check}" for each in cause.explanations]
    )
