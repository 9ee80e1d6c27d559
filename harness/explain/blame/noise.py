"""Noise of a case: what harmless rounding does to each site by itself, and to the decoded pictures.

The reference against itself, computed in its other formulations and with one rounding more at every site. A local error
inherits nothing, so it does not depend on where in a session it is seen, nor on the unit: one level for every kind of
site, from one unit. (Golden checkpoint and the tiny ones: 2e-7 to 4e-7 in fp32, 3e-3 to 6e-3 in bf16.)
"""

from collections.abc import Sequence

import msgspec

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.explain.blame.local import local_errors
from waypoint_parity.harness.explain.blame.pictures import PictureDifference, difference
from waypoint_parity.harness.judge.noise_floor.harmless import RoundedOtherwise, harmless_options
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.sites import Kind, kind_of
from waypoint_parity.harness.run.taps import decoded_pictures

# How many times its level a local error may be. The candidate here stays below 1.4 times.
MARGIN = 4.0
# Of a picture, which is made of equal values by both: a pixel in a hundred on the edge between two levels.
PICTURE_BOUND = 1e-3


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """The level of each kind of site (its name with every number replaced by *), and of the decoded pictures."""

    levels: dict[str, float]
    pictures: PictureDifference | None

    def bound(self, site: str, kind: Kind, roundoff: float) -> float:
        """The largest local error that is taken for noise at a site of this `kind`, in a dtype with this `roundoff`."""
        if kind in (Kind.INPUT, Kind.MASK):
            return 0.0
        if kind is Kind.PICTURE:
            return PICTURE_BOUND
        return MARGIN * max(self.levels.get(kind_of(site), 0.0), roundoff)


def rounded_otherwise(implementation: str, checkpoint: Checkpoint, numerics: Numerics) -> Adapter:
    """`implementation` in all of its other formulations, with one rounding more at every site."""
    options = harmless_options(implementation)
    other = registry.load("+".join([implementation, *options]), checkpoint, numerics)
    return RoundedOtherwise(other, checkpoint.family.sites)


def measure_noise(
    reference: Adapter, rounded: Adapter, checkpoint: Checkpoint, scenario: Scenario, right: Sequence[Pixels]
) -> Noise:
    """The noise of a session of `reference`, whose decoded pictures are `right`; `rounded` is the same otherwise."""
    levels: dict[str, float] = {}
    short = checkpoint.family.first_units(scenario, 1)
    for key, error in local_errors(reference, rounded, checkpoint, short).errors.items():
        levels[kind_of(key.site)] = max(levels.get(kind_of(key.site), 0.0), error.rel_l2)
    with decoded_pictures(rounded, checkpoint.family) as wrong:
        run(rounded, scenario, checkpoint)
    return Noise(levels=levels, pictures=difference(wrong, right))
