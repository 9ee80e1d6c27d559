"""Findings: local errors beyond their bounds, gathered by the part that they are errors of."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.explain.blame.exchanges import Exchange, exchange_of
from waypoint_parity.harness.explain.blame.flow import Flow, exposed_to
from waypoint_parity.harness.explain.blame.local import LocalErrors
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.pace import rank
from waypoint_parity.harness.explain.blame.parts import PARTS, Part, part_named, part_of
from waypoint_parity.harness.explain.blame.result import LocalError
from waypoint_parity.harness.judge.tally import finite
from waypoint_parity.harness.run.keys import Key, block_of, ring_part

# Inputs that a session also knows by itself: an error of theirs reaches the whole frame.
_OF_A_FRAME = ("input.sigma", "input.timestamp")
# Where a pass that only one side has is entered, by its phase.
_OF_A_PASS = {
    "prompt": "input.prompt_emb",
    "image": "latent",
    "denoise": "input.sigma",
    "cache": "kv_cache.layers.0.written",
    "decode": "frame",
}


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
        return exchange_of(part_named(self.part), self.blocks)


def findings(local: LocalErrors, noise: Noise, wiring: Flow, accepted: Collection[str]) -> list[Finding]:
    """The parts with errors of their own, in the order of execution; inputs that are `accepted` have none."""
    wrong = {key: error for key, error in local.errors.items() if beyond(key, error, local, noise)}
    wrong = {key: error for key, error in wrong.items() if key.site not in accepted}
    wrong |= {key: no_distance("the candidate does not show it in this pass") for key in local.lacking}
    wrong |= {Key(*at, _OF_A_PASS[at[1]]): no_distance(f"only the {side} has this pass") for at, side in local.alone}
    exposed = {site: exposed_to(site, wiring, local.patched) for site in {key.site for key in wrong}}
    at_site: dict[str, list[Key]] = defaultdict(list)
    for key in wrong:
        at_site[key.site].append(key)
    by_part: dict[str, dict[Key, Error]] = defaultdict(dict)
    for key, error in wrong.items():
        inherited = any(_reaches(other, key) for site in exposed[key.site] for other in at_site[site])
        if not inherited and not _handed_on_otherwise(key, local):
            by_part[_blamed(key, local).name][key] = error
    return [_finding(part, by_part[part.name], local, noise, exposed) for part in PARTS if part.name in by_part]


def beyond(key: Key, error: Error, local: LocalErrors, noise: Noise) -> bool:
    """Whether a local error is more than noise."""
    return not error.identical and error.rel_l2 > noise.bound(key, local.roundoff[key])


def _reaches(other: Key, key: Key) -> bool:
    """Whether an error at `other` that no patch kept from spreading is seen at `key`, which is computed from it."""
    if other.site in _OF_A_FRAME and key.phase != "image":
        return other.frame == key.frame
    if ring_part(other.site) in ("kv", "written") and ring_part(key.site) is None:
        # What a pass leaves in a ring is seen by those that follow.
        return rank(other[:3]) < rank(key[:3])
    return other[:3] == key[:3]


def _handed_on_otherwise(key: Key, local: LocalErrors) -> bool:
    """Whether another value was handed on because the sides took another number of denoise steps in this frame."""
    unequal = any((frame, phase) == (key.frame, "denoise") for (frame, phase, _), _ in local.alone)
    return unequal and part_named("input.schedule").carries(key)


def _blamed(key: Key, local: LocalErrors) -> Part:
    """The part whose error is seen at `key`: of what a cache pass leaves out, the cache, which alone it is run for."""
    if key.phase == "cache" and key in local.lacking:
        return part_of(key._replace(site=_OF_A_PASS["cache"]))
    return part_of(key)


def _finding(
    part: Part, errors: Mapping[Key, Error], local: LocalErrors, noise: Noise, exposed: Mapping[str, Sequence[str]]
) -> Finding:
    observed = [key for key in local.errors if part_of(key) is part]
    shown = {key.site for key in local.errors}
    region = dict.fromkeys(site for key in errors for site in exposed[key.site] if site not in shown)
    blocks = {block_of(key.site) for key in errors}
    # Stages of the autoencoder are no blocks: what is exchanged of it is the whole part.
    everywhere = part.family == "autoencoder" or blocks >= {block_of(key.site) for key in observed}
    return Finding(
        part=part.name,
        errors=[_seen(key, error, noise.bound(key, local.roundoff.get(key, 0.0))) for key, error in errors.items()],
        observed=max(len(observed), len(errors)),
        blocks=None if everywhere else sorted(block for block in blocks if block is not None),
        region=list(region),
    )


def _seen(key: Key, error: Error, bound: float) -> LocalError:
    return LocalError(
        **key._asdict(), rel_l2=finite(error.rel_l2), bound=bound, norm_ratio=error.norm_ratio, note=error.note
    )
