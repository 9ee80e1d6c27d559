"""Findings: local errors beyond their bounds, gathered by the part that they are errors of."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.explain.blame.exchanges import Exchange, exchange_of
from waypoint_parity.harness.explain.blame.local import LocalErrors
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.result import LocalError
from waypoint_parity.harness.explain.blame.wiring import Wiring
from waypoint_parity.harness.judge.table import finite
from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.keys import At, Key, block_of


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A part with errors of its own, which are in the order of execution; `observed` counts those without too."""

    part: str
    errors: list[LocalError]
    observed: int
    # None: every block that has the part.
    blocks: list[int] | None
    # Sites before those at fault that were not shown, or not patched: the fault may lie there instead.
    region: list[str]

    @property
    def exchange(self) -> Exchange:
        """What has to be exchanged to take the part from the other side."""
        return exchange_of(self.part, self.blocks)


def findings(local: LocalErrors, noise: Noise, wiring: Wiring, accepted: Collection[str]) -> list[Finding]:
    """The parts with errors of their own, in the order of execution; inputs that are `accepted` have none."""
    bounds = {key: _bound(key, local, noise, wiring) for key in local.errors}
    wrong = {key: error for key, error in local.errors.items() if not error.identical and error.rel_l2 > bounds[key]}
    wrong = {key: error for key, error in wrong.items() if key.site not in accepted}
    wrong |= {key: no_distance("the candidate does not show it in this pass") for key in local.lacking}
    wrong |= {
        Key(*at, site): no_distance(f"only the {side} has this pass")
        for at, side in local.alone
        if (site := wiring.table.entry(at.phase)) is not None
    }
    exposed = {site: wiring.exposed_to(site, local.patched) for site in {key.site for key in wrong}}
    at_site: dict[str, list[Key]] = defaultdict(list)
    for key in wrong:
        at_site[key.site].append(key)
    by_part: dict[str, dict[Key, Error]] = defaultdict(dict)
    for key, error in wrong.items():
        inherited = any(wiring.reaches(other, key) for site in exposed[key.site] for other in at_site[site])
        if not inherited and not _of_other_steps(key, local, wiring):
            by_part[_blamed(key, local, wiring).name][key] = error
    return [
        _finding(part, by_part[part.name], local, noise, wiring, exposed)
        for part in wiring.parts
        if part.name in by_part
    ]


def _bound(key: Key, local: LocalErrors, noise: Noise, wiring: Wiring) -> float:
    """The largest local error at `key` that is taken for noise."""
    return noise.bound(key.site, wiring.table.kind(key.site), local.roundoff.get(key, 0.0))


def _of_other_steps(key: Key, local: LocalErrors, wiring: Wiring) -> bool:
    """Whether another value was handed on because the sides took another number of steps in this unit."""
    steps: list[At] = [at for at, _ in local.alone if at.phase in wiring.table.sampling]
    return any(at.unit == key.unit for at in steps) and wiring.is_handed_on(key)


def _blamed(key: Key, local: LocalErrors, wiring: Wiring) -> Part:
    """The part whose error is seen at `key`: of what a cache pass leaves out, the cache, which alone it is run for."""
    entered = wiring.entered_by(key.phase)
    if entered is not None and entered.place == "cache" and key in local.lacking:
        return entered
    return wiring.part_of(key)


def _finding(
    part: Part,
    errors: Mapping[Key, Error],
    local: LocalErrors,
    noise: Noise,
    wiring: Wiring,
    exposed: Mapping[str, Sequence[str]],
) -> Finding:
    observed = [key for key in local.errors if wiring.table.part_of(key) == part.name]
    shown = {key.site for key in local.errors}
    region = dict.fromkeys(site for key in errors for site in exposed[key.site] if site not in shown)
    blocks = {block_of(key.site) for key in errors}
    # What belongs to no block serves all of them.
    everywhere = part.whole or None in blocks or blocks >= {block_of(key.site) for key in observed}
    return Finding(
        part=part.name,
        errors=[_seen(key, error, _bound(key, local, noise, wiring)) for key, error in errors.items()],
        observed=max(len(observed), len(errors)),
        blocks=None if everywhere else sorted(block for block in blocks if block is not None),
        region=list(region),
    )


def _seen(key: Key, error: Error, bound: float) -> LocalError:
    return LocalError(
        **key._asdict(), rel_l2=finite(error.rel_l2), bound=bound, norm_ratio=error.norm_ratio, note=error.note
    )
