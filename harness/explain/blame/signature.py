"""Signature: where, when and how the errors of one part show, in fixed words, from the measured keys and errors alone.

The words are statements with a truth of their own; what they may mean is said in harness.explain.blame.explanations.
Those here hold of any model; a family has more (harness.run.family.Family.words).
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from statistics import median
from typing import Literal

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.explain.blame.result import Signature
from waypoint_parity.harness.run.family import Part, part_named
from waypoint_parity.harness.run.keys import At, Key, block_of, last_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import steps
from waypoint_parity.harness.run.sites import SiteTable

Norm = Literal["kept", "changed", "unknown"]
Course = Literal["steady", "grows", "fades", "unknown"]

# |log norm ratio| by log(1 + distance) is 1 where a value is only scaled up and 0 where it is turned, permuted or
# replaced by one of the same norm. Noise of half a value's size, at right angles to it, has 0.27.
_NORM_KEPT = 0.25
# One rounding to bf16 is 2e-3, a site computed otherwise in bf16 up to 1.3e-2 (fixtures/golden/bf16).
_ROUNDING = 2e-2
# Local errors inherit nothing, so the same fault varies by the values of a unit alone: less than this.
_COURSE = 1.5


def signature(faults: Mapping[Key, Error], checkpoint: Checkpoint, scenario: Scenario) -> Signature:
    """How one part's local errors show: `faults` are those beyond their bounds, in the order of execution.

    Without any there is nothing to say: no onset, norm and course unknown.
    """
    table = checkpoint.family.table(checkpoint.geometry, scenario)
    computed = {key: error for key, error in faults.items() if not table.is_mask(key.site)}
    words: list[str] = []
    if faults:
        first, error = next(iter(faults.items()))
        words += checkpoint.family.words(first, faults.keys(), checkpoint.geometry, scenario)
        words += _passes(first, faults.keys(), table, steps(scenario, checkpoint))
        words += ["no distance"] if error.note is not None else []
        words += ["rounding-sized"] if _is_rounding_sized(computed) else []
    layers = _layers(faults.keys(), checkpoint, table)
    return Signature(onset=words, layers=layers, norm=_norm(computed), course=_course(faults))


def _passes(first: Key, keys: Collection[Key], table: SiteTable, session: Collection[At]) -> list[str]:
    """Which of the steps that show the sites have errors."""
    found = {key.at for key in keys}
    shown = {at for key in {key.site: key for key in keys}.values() for at in table.showing(key, session)}
    later = {at.phase for at in found if at.step}
    statements = {
        "first pass": first.at == next(iter(table.showing(first, session)), None),
        "every pass": found >= shown,
        "from the second step on": bool(later) and not any(at.phase in later and at.step == 0 for at in found),
    }
    return [word for word, holds in statements.items() if holds]


def _is_rounding_sized(faults: Mapping[Key, Error]) -> bool:
    return bool(faults) and median(error.rel_l2 for error in faults.values()) <= _ROUNDING


def _layers(keys: Collection[Key], checkpoint: Checkpoint, table: SiteTable) -> str:
    """Which blocks have errors, of those that have the part: a word of the family, else their numbers."""
    blocks = {key: block_of(key.site) for key in keys if not _part(key, checkpoint, table).whole}
    found = sorted({block for block in blocks.values() if block is not None})
    if not found:
        return "none"
    names = {last_name(key.site) for key, block in blocks.items() if block is not None}
    groups = checkpoint.family.layer_groups(names, checkpoint.geometry)
    listed = f"block{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
    return next((word for word, layers in groups.items() if list(layers) == found), listed)


def _part(key: Key, checkpoint: Checkpoint, table: SiteTable) -> Part:
    return part_named(table.part_of(key), checkpoint.family)


def _norm(faults: Mapping[Key, Error]) -> Norm:
    """Whether the values keep their norm, though not their direction."""
    changes = [
        error.log_norm / math.log1p(error.rel_l2)
        for error in faults.values()
        if error.norm_ratio is not None and error.rel_l2 > 0
    ]
    if not changes:
        return "unknown"
    return "kept" if median(changes) < _NORM_KEPT else "changed"


def _course(faults: Mapping[Key, Error]) -> Course:
    """How the errors of the same observation change from the first unit that has it to the last."""
    recurring: dict[Key, list[float]] = defaultdict(list)
    for key, error in faults.items():
        if 0 < error.rel_l2 < math.inf:
            recurring[key._replace(unit=0)].append(error.rel_l2)
    changes = [errors[-1] / errors[0] for errors in recurring.values() if len(errors) > 1]
    if not changes:
        return "unknown"
    change = median(changes)
    return "grows" if change > _COURSE else "fades" if change < 1 / _COURSE else "steady"
