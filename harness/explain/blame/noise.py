"""Noise of a case: what harmless rounding does to each site by itself, and to the decoded frames.

The reference against itself, computed in its other formulations and with one rounding more at every site. A local error
inherits nothing, so it does not depend on where in a session it is seen, nor on the frame: one level for every kind of
site, from one frame. (Golden checkpoint and the tiny ones: 2e-7 to 4e-7 in fp32, 3e-3 to 6e-3 in bf16.)
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.explain.blame.local import local_errors
from waypoint_parity.harness.explain.blame.pictures import PictureDifference, difference, pictures_of
from waypoint_parity.harness.judge.noise_floor.harmless import RoundedOtherwise, harmless_options
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.keys import Key, is_input, is_mask
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run

# How many times its level a local error may be. The candidate here stays below 1.4 times.
MARGIN = 4.0
# Of the frame, which is made of equal values by both: a pixel in a hundred on the edge between two levels.
FRAME_BOUND = 1e-3


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """The level of each kind of site (its name with every number replaced by *), and of the decoded frames."""

    levels: dict[str, float]
    pictures: PictureDifference | None

    def bound(self, key: Key, roundoff: float) -> float:
        """The largest local error at `key` that is taken for noise, in a dtype with this `roundoff`."""
        if is_input(key.site) or is_mask(key.site):
            return 0.0
        if key.site == "frame":
            return FRAME_BOUND
        return MARGIN * max(self.levels.get(kind_of(key.site), 0.0), roundoff)


def rounded_otherwise(implementation: str, checkpoint: Checkpoint, numerics: Numerics) -> Adapter:
    """`implementation` in all of its other formulations, with one rounding more at every site."""
    options = harmless_options(implementation)
    return RoundedOtherwise(registry.load("+".join([implementation, *options]), checkpoint, numerics))


def measure_noise(
    reference: Adapter, rounded: Adapter, checkpoint: Checkpoint, scenario: Scenario, right: Sequence[Pixels]
) -> Noise:
    """The noise of a session of `reference`, whose decoded frames are `right`; `rounded` is the same otherwise."""
    levels: dict[str, float] = {}
    short = replace(scenario, noise=scenario.noise[:1])
    for key, error in local_errors(reference, rounded, checkpoint, short).errors.items():
        levels[kind_of(key.site)] = max(levels.get(kind_of(key.site), 0.0), error.rel_l2)
    with pictures_of(rounded) as wrong:
        run(rounded, scenario, checkpoint.transformer)
    return Noise(levels=levels, pictures=difference(wrong, right))


def kind_of(site: str) -> str:
    """The name of a site with every number replaced by *: the same for all blocks."""
    return re.sub(r"\d+", "*", site)
