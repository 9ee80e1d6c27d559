"""Precision: is a candidate as precise as it may be, and right, at every site by itself?

Two sessions run step by step: the candidate's, which is only watched, and the reference's, which goes on with the
candidate's value at every site that both show. So at each site the reference's exact shadow is what should have come out
of the candidate's own values (E). How far the candidate's value (C) is from E is its error there, and nothing else's.

The yardstick is what rounding alone does at this very observation: the spread of disturbed lanes of the reference
between the same sites. Nothing has to be patchable in the candidate, nor need it be a torch program.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Paced, counting, exact_arithmetic, keep_pace, order_of, passes
from waypoint_parity.harness.run.taps import Observation, Taps

# How many disturbed lanes measure a spread.
LANES = 4
# The largest error that is taken for rounding, in spreads. Measured: right implementations reach 1.8, wrong ones begin
# at 24.
FACTOR = 6.0
# Less than two units of fp32, in which sums are made, is no error in any dtype.
FLOOR = 2 * 2.0**-23
# The same of a gain, by the dtype: right ones reach 3.5, wrong ones begin at 12 in bf16 and at 80 in fp32.
GAIN_FACTOR = {torch.float32: 10.0, torch.bfloat16: 7.0}
GAIN_FLOOR = 2.0**-24
# Fewer observations do not tell a gain from a rounding.
GAIN_OBSERVATIONS = 4


@dataclass(frozen=True)
class Measured:
    """One observation. Errors are relative L2 distances from E, gains <x - E, E> / <E, E>.

    `spread` is the root mean square of the lanes' errors, `lane_gains` are their gains. Of whole numbers and masks only
    `equal` is known; of others `error` is infinite where there is no distance.
    """

    key: Key
    dtype: torch.dtype
    error: float = 0.0
    reference: float = 0.0
    spread: float = 0.0
    gain: float = 0.0
    reference_gain: float = 0.0
    lane_gains: tuple[float, ...] = ()
    equal: bool | None = None
    # Why E is not exact.
    lost: str | None = None

    @property
    def bound(self) -> float:
        """The largest error that is taken for rounding."""
        return FACTOR * max(self.spread, FLOOR)

    @property
    def excess(self) -> float:
        """The error over its bound: more than 1 is wrong."""
        if self.equal is not None:
            return 0.0 if self.equal else math.inf
        return self.error / self.bound


@dataclass(frozen=True)
class Gain:
    """The mean gain of a site in a phase, and the largest that is taken for rounding."""

    site: str
    phase: str
    gain: float
    bound: float
    observations: int

    @property
    def excess(self) -> float:
        """The gain over its bound: more than 1 is wrong."""
        return abs(self.gain) / self.bound


@dataclass(frozen=True)
class LocalRun:
    """What a run with the reference fed showed, in the order of execution.

    `alone`: what only the candidate showed, or in another shape. `refused`: sites of the reference that did not take a
    value, so that what reads them had another input than the candidate's.
    """

    measured: list[Measured]
    alone: list[Key]
    refused: list[str]


@exact_arithmetic()
def local_run(
    reference: Shadowed, candidate: Adapter, checkpoint: Checkpoint, scenario: Scenario, units: Collection[int]
) -> LocalRun:
    """Run both, the reference fed at all sites that both show, and measure what they show in `units`."""
    measuring = _Measuring(reference, units)
    sites, shown = reference.adapter.sites(), candidate.sites()
    common = sites.keys() & shown.keys()
    counts = counting(scenario, checkpoint)
    watch = Taps({name: shown[name] for name in common}, measuring.keep, counts=counts)
    feed = Taps({name: sites[name] for name in common}, measuring.measure, counts=counts)
    reference.expect(scenario)
    with watch, feed:
        sessions = (
            Paced(passes(candidate, scenario, checkpoint, watch)),
            Paced(passes(reference.adapter, scenario, checkpoint, feed), reference.following(units)),
        )
        keep_pace(sessions, order_of(scenario, checkpoint))
    return LocalRun(measuring.measured, [*measuring.alone, *measuring.kept], sorted(feed.refused))


class _Measuring:
    """Keeps what the candidate shows until the reference comes to it."""

    def __init__(self, reference: Shadowed, units: Collection[int]) -> None:
        self.kept: dict[Key, Tensor] = {}
        self.measured: list[Measured] = []
        self.alone: list[Key] = []
        self._shadow = reference.shadow
        self._units = units

    def keep(self, seen: Observation) -> None:
        """Take what the candidate shows."""
        self.kept[seen.key] = seen.tensor.detach().clone()

    def measure(self, seen: Observation) -> Tensor | None:
        """Measure what the reference makes of the candidate's values; the candidate's takes its place."""
        shown = self.kept.pop(seen.key, None)
        if shown is None:
            return None
        with _disable_current_modes():
            if shown.shape != seen.tensor.shape:
                self.alone.append(seen.key)
                return None
            if seen.key.unit in self._units:
                self.measured.append(self._compared(seen.key, shown, seen.tensor))
            put = shown.to(seen.tensor)
            self._shadow.put(put)
            return put

    def _compared(self, key: Key, shown: Tensor, made: Tensor) -> Measured:
        if not made.is_floating_point():
            return Measured(key, made.dtype, equal=bool((shown == made).all()))
        lanes = [self._shadow.of(made, lane) for lane in range(self._shadow.lanes)]
        exact = lanes[0].to(made.dtype).double()
        errors = [_error(x.double(), exact) for x in (shown, made, *lanes[1:])]
        (error, gain), (reference, reference_gain), *disturbed = errors
        return Measured(
            key,
            made.dtype,
            error,
            reference,
            math.sqrt(fmean(each**2 for each, _ in disturbed)) if disturbed else 0.0,
            gain,
            reference_gain,
            tuple(gain for _, gain in disturbed),
            lost=self._shadow.lost(made),
        )


def _error(x: Tensor, exact: Tensor) -> tuple[float, float]:
    """(relative L2 distance, gain) of `x` from `exact`, both fp64."""
    finite = exact.isfinite()
    if not bool(finite.all()):
        if not torch.equal(x[~finite].nan_to_num(nan=0.5), exact[~finite].nan_to_num(nan=0.5)):
            return math.inf, 0.0
        x, exact = x[finite], exact[finite]
    difference, square = x - exact, float((exact * exact).sum())
    distance = float(difference.norm())
    if not math.isfinite(distance):
        return math.inf, 0.0
    if not square:
        return (math.inf if distance else 0.0), 0.0
    return distance / math.sqrt(square), float((difference * exact).sum()) / square


def gains(measured: Iterable[Measured]) -> list[Gain]:
    """The mean gain of every site in every phase that has enough observations, in the order of execution."""
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for one in measured:
        if one.equal is None and one.lane_gains and math.isfinite(one.error):
            groups[one.key.site, one.key.phase].append(one)
    return [_gain(*at, group) for at, group in groups.items() if len(group) >= GAIN_OBSERVATIONS]


def _gain(site: str, phase: str, group: Sequence[Measured]) -> Gain:
    means = [fmean(lane) for lane in zip(*(one.lane_gains for one in group), strict=True)]
    single = fmean(gain**2 for one in group for gain in one.lane_gains)
    spread = max(math.sqrt(fmean(mean**2 for mean in means)), math.sqrt(single) / 2, GAIN_FLOOR)
    factor = GAIN_FACTOR.get(group[0].dtype, GAIN_FACTOR[torch.bfloat16])
    return Gain(site, phase, fmean(one.gain for one in group), factor * spread, len(group))
