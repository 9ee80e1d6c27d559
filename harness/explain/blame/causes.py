"""Causes: findings with what they cost and what they look like, and their order."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.explanations import explain
from waypoint_parity.harness.explain.blame.findings import Finding
from waypoint_parity.harness.explain.blame.result import Cause, Explanation, Share, Signature, SiteErrors
from waypoint_parity.harness.explain.blame.signature import signature
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.run.family import Family, part_named
from waypoint_parity.harness.run.scenario import Scenario

# More parts than these that may be at fault are no help: more sites have to be mapped.
FEW = 3


@dataclass(frozen=True)
class Measured:
    """What runs showed of one finding; None or empty where a run was not made."""

    necessity: Share | None
    sufficiency: Share | None
    gain: float | None
    controls: list[str]


def cause(finding: Finding, measured: Measured, checkpoint: Checkpoint, scenario: Scenario) -> Cause:
    """A finding as a cause."""
    family = checkpoint.family
    part, before = part_named(finding.part, family), family.sites.parts_at(finding.region)
    region_parts = [other.name for other in family.parts if other.name in before]
    errors = {seen.key: seen.as_error for seen in finding.errors}
    shows = msgspec.structs.replace(signature(errors, checkpoint, scenario), controls=[*measured.controls])
    return Cause(
        name=finding.exchange.name,
        part=part.name,
        group=part.group,
        blocks=finding.blocks,
        sites=list(dict.fromkeys(seen.site for seen in finding.errors)),
        first=finding.errors[0],
        worst=max(finding.errors, key=lambda seen: seen.distance),
        failed=len(finding.errors),
        observed=finding.observed,
        region=finding.region,
        region_parts=region_parts,
        signature=shows,
        explanations=_explanations(part.name, region_parts, shows, family),
        necessity=measured.necessity,
        sufficiency=measured.sufficiency,
        gain=measured.gain,
    )


def _explanations(part: str, region: Sequence[str], shows: Signature, family: Family) -> list[Explanation]:
    """What the errors look like in the part itself; and the likeliest in each part before it, where these are few."""
    before = [other for other in region if other != part]
    if len(before) > FEW:
        before = []
    return [*explain(part, shows, family), *(kind for other in before for kind in explain(other, shows, family)[:1])]


def ranked(causes: Sequence[Cause], family: Family | None = None) -> list[Cause]:
    """The causes, the one first without which the final picture gains most; then by their local errors.

    A cause that does not reach the final picture is ranked by all pictures. Before all stands the one at the part that
    a proven mistake belongs to, where that mistake is proven of other causes too: they are that one seen elsewhere.
    """
    homes = {} if family is None else {kind.kind: kind.parts[0] for kind in family.kinds}
    proven = Counter(proof.statement for cause in causes for proof in cause.proofs if proof.by == "hypothesis")

    def is_home(cause: Cause) -> bool:
        shared = (proof.statement for proof in cause.proofs if proven[proof.statement] > 1)
        return any(homes.get(statement.partition(": ")[0]) == cause.part for statement in shared)

    return sorted(causes, key=lambda cause: (is_home(cause), _weight(cause)), reverse=True)


def annotated(
    ladder: Sequence[SiteErrors], comparison: Comparison, gains: Mapping[str, float | None]
) -> list[SiteErrors]:
    """The ladder of local errors with those of the free-running session, and with gains by site."""
    free = {rung.rung: rung.rel_l2 for rung in comparison.sites}
    return [msgspec.structs.replace(rung, inherited=free.get(rung.rung), gain=gains.get(rung.site)) for rung in ladder]


def _weight(cause: Cause) -> tuple[float, float, float]:
    necessity = cause.necessity
    shares = (None, None) if necessity is None else (necessity.mean_abs, necessity.all_pictures)
    final, every = (-math.inf if value is None else value for value in shares)
    return final, every, cause.worst.distance
