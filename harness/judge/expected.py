"""What two dumps are expected to show of a session, by their manifests: of that which both recorded."""

from collections.abc import Iterator

from waypoint_parity.harness.judge.ledger import Expected
from waypoint_parity.harness.record.records import Manifest, PassSites
from waypoint_parity.harness.record.selection import EVERYTHING
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import Key, Rung


def expected_observations(reference: Manifest, candidate: Manifest) -> Expected:
    """How many units show each rung.

    Where a manifest does not tell the passes of its session: how many observations there are, which for two unlike
    selections nobody knows.
    """
    selections = [side.selection or EVERYTHING for side in (reference, candidate)]
    if reference.passes is None or reference.units is None:
        return reference.expected if selections[0] == selections[1] else 0
    lacked = _lacked(reference, candidate)
    expected: dict[Rung, int] = {}
    for kind in reference.passes:
        for rung in _rungs(kind):
            if rung.site not in lacked:
                keys = (Key(unit, *rung) for first, stop in kind.units for unit in range(first, stop))
                number = sum(all(side.takes(key) for side in selections) for key in keys)
                expected[rung] = expected.get(rung, 0) + number
    return {rung: number for rung, number in expected.items() if number}


def _rungs(kind: PassSites) -> Iterator[Rung]:
    for name in kind.sites:
        site, _, branch = name.partition("@")
        yield Rung(kind.phase, kind.step, site, branch)


def _lacked(reference: Manifest, candidate: Manifest) -> set[str]:
    """The optional sites of the reference that the candidate does not have."""
    if candidate.passes is None:
        return set()
    expected, shown = (
        {rung.site for kind in side.passes or () for rung in _rungs(kind)} for side in (reference, candidate)
    )
    sites = family_named(reference.family).sites
    return {site for site in expected - shown if sites.is_optional(site)}
