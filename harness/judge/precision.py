"""Precision: whether a candidate is right, and as precise as it may be, at every site by itself.

Two sessions run step by step: the candidate's, which is only watched, and the reference's, which goes on with the
candidate's value at every site that both show. So at each site the reference's exact shadow is what should have come
out of the candidate's own values (E). How far the candidate's value (C) is from E is its error there, and nothing
else's.

The yardstick is what rounding alone does at this very observation: the spread of disturbed lanes of the reference
between the same sites. Nothing has to be patchable in the candidate, nor need it be a torch program.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed
from waypoint_parity.harness.judge.comparison import Precision
from waypoint_parity.harness.judge.judgement import FACTOR, FLOOR
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.component import RecordedCalls
from waypoint_parity.harness.run.keys import Key, is_input, site_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Paced, counting, keep_pace, order_of, passes
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation, Taps
from waypoint_parity.harness.run.worker import exact_arithmetic

# Takes what the candidate shows at a key, and what the reference makes of the same inputs.
Told = Callable[[Key, Tensor, Tensor], None]
# How many disturbed lanes measure a spread.
LANES = 4
# Of a tensor's L2 distance two lanes tell nearly as much: they are the sieve, for less.
SIEVE_LANES = 2
# Beyond this part of its bound an error is measured again, with more lanes.
DOUBT = 0.5
# The same of a gain, by the dtype: right ones reach 3.5, wrong ones begin at 12 in bf16 and at 40 in fp32. A kernel of
# another formulation has a bias of its own: fused fp32 attention 6e-7 on an H200. A site that is 1e-5 off is wrong.
GAIN_FACTOR = {torch.float32: 10.0, torch.bfloat16: 7.0}
GAIN_FLOOR = 2.0**-22
# What is computed in fp64 is as exact as the shadow: the least spread and the least gain of it.
FLOOR_OF_FP64 = 1e-13
# Fewer observations do not tell a gain from a rounding.
GAIN_OBSERVATIONS = 4
# So many levels of a picture are one off at the most, where errors of fp32 decide how it is rounded.
_MOST_LEVELS = 0.01


@dataclass(frozen=True)
class OwnError:
    """One observation. Errors are relative L2 distances from E, gains <x - E, E> / <E, E>.

    `spread` is the root mean square of the lanes' errors, None where no lane was run; `lane_gains` are their gains.
    `reference` is the reference's own error. Of whole numbers and masks only `equal` is known.
    """

    key: Key
    dtype: torch.dtype
    error: float = 0.0
    reference: float = 0.0
    spread: float | None = None
    gain: float = 0.0
    lane_gains: tuple[float, ...] = ()
    equal: bool | None = None
    # The least spread that counts.
    least: float = FLOOR
    # Why E is not exact.
    lost: str | None = None

    @property
    def rounding(self) -> float:
        """The largest error that the spread explains."""
        return FACTOR * max(self.spread or 0.0, self.least)

    @property
    def bound(self) -> float:
        """The largest error that is taken for rounding; the reference's own is."""
        return max(self.rounding, self.reference)

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
    branch: str
    gain: float
    bound: float
    observations: int

    @property
    def excess(self) -> float:
        """The gain over its bound: more than 1 is wrong."""
        return abs(self.gain) / self.bound

    def __str__(self) -> str:
        where = f"{site_name(self.site, self.branch)} in {self.phase}"
        return f"{where} is {1 + self.gain:.9g} times what it should be, bound 1 +- {self.bound:.1e}"


@dataclass(frozen=True)
class PrecisionRun:
    """What a run with the reference fed showed, in the order of execution.

    Whole numbers were compared in all units, everything else in `units`. `alone`: what only the candidate showed, or in
    another shape. `refused`: sites of the reference that did not take a value, so that what reads them had another
    input than the candidate's.
    """

    measured: list[OwnError]
    units: list[int]
    lanes: int
    alone: list[Key]
    refused: list[str]

    @cached_property
    def gains(self) -> list[Gain]:
        """The mean gain of every site in every phase with enough observations."""
        return gains(self.measured)

    @cached_property
    def excess(self) -> dict[Key, float]:
        """By how much each observation is wrong by itself: more than 1 is. Only of those that have an exact value."""
        excess = {one.key: one.excess for one in self.measured if one.lost is None}
        wrong = {(gain.site, gain.phase, gain.branch): gain for gain in self.gains if gain.excess > 1}
        for one in self.measured:
            gain = wrong.get(_series(one.key))
            # Of those that have it, not of others that were averaged with them.
            if gain is not None and one.key in excess and abs(one.gain) > gain.bound / 2:
                excess[one.key] = max(excess[one.key], gain.excess)
        return excess

    @property
    def is_doubtful(self) -> bool:
        """Whether anything comes near its bound."""
        near = (one.excess > DOUBT for one in self.measured if one.equal is None)
        return any(near) or any(gain.excess > DOUBT for gain in self.gains)

    @cached_property
    def precision(self) -> Precision:
        """The same in short."""
        floating = [one for one in self.measured if one.equal is None and one.lost is None]
        worst = max(floating, key=lambda one: one.excess, default=None)
        lost = dict.fromkeys(one.lost for one in self.measured if one.lost is not None)
        unjudged = [f"behind an operation that could not be followed: {reason}" for reason in lost]
        unjudged += [f"{name} of the reference takes no value" for name in self.refused]
        return Precision(
            units=self.units,
            observations=len(floating),
            lanes=self.lanes,
            worst=None if worst is None or math.isinf(worst.excess) else worst.excess,
            at="" if worst is None else str(worst.key),
            reference=max((one.reference / one.rounding for one in floating), default=None),
            worst_gain=max((gain.excess for gain in self.gains), default=None),
            gains=[str(gain) for gain in self.gains if gain.excess > 1],
            unjudged=unjudged,
        )


def precision_run(
    reference: Shadowed,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    sample: Collection[int],
    *,
    everywhere: bool,
    least: float = FLOOR,
    alone: RecordedCalls | None = None,
    told: Told | None = None,
) -> PrecisionRun:
    """Measure the candidate in the units of a `sample`, or `everywhere`; the reference was loaded with LANES.

    `least`: the least spread of rounding. `alone` and `told`: see `fed_run`.

    What a sampled unit shows of a site's spread and gain is a sieve for the other units: those in which anything
    exceeds half its bound are measured again, with lanes of their own.
    """

    def fed(units: Collection[int], lanes: int) -> PrecisionRun:
        return fed_run(reference, candidate, checkpoint, scenario, units, lanes, least, alone, told)

    def measured(units: Collection[int]) -> PrecisionRun:
        """Their errors, with all lanes where a few leave a doubt."""
        sieved = fed(units, SIEVE_LANES)
        return fed(units, LANES) if sieved.is_doubtful else sieved

    first = measured(sample)
    rest = [unit for unit in range(scenario.units) if unit not in sample]
    if not everywhere or not rest:
        return first
    pooled = _pooled(first.measured)
    sieved = fed(rest, 0)
    found = {one.key: replace(one, spread=pooled.get(_series(one.key), 0.0)) for one in sieved.measured}
    doubtful = {one.key.unit for one in found.values() if one.equal is None and one.excess > DOUBT}
    doubtful |= _gaining(sieved.measured, {(gain.site, gain.phase, gain.branch): gain.bound for gain in first.gains})
    for run in [first, measured(doubtful)] if doubtful else [first]:
        found |= {one.key: one for one in run.measured if one.equal is not None or one.key.unit in run.units}
    return replace(first, measured=[*found.values()], units=list(range(scenario.units)))


@exact_arithmetic()
def fed_run(
    reference: Shadowed,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    units: Collection[int],
    lanes: int = LANES,
    least: float = FLOOR,
    alone: RecordedCalls | None = None,
    told: Told | None = None,
) -> PrecisionRun:
    """Run both, the reference fed at all sites that both show, and measure what they show in `units`.

    `least`: the least spread of rounding. `alone`: a component to which the candidate is confined; around it the
    reference is fed with what was recorded. `told` is handed both values of whatever is compared.
    """
    reference.shadow.lanes = 1 + lanes
    sites, shown = reference.adapter.sites(), candidate.sites()
    table = checkpoint.family.table(checkpoint.geometry, scenario)
    common = sites.keys() & shown.keys()
    given = {} if alone is None else alone.given
    fed = common | {key.site for key in given}
    pictures = [row for row in table.rows if row.kind is Kind.PICTURE]
    loose = {row.name for row in pictures if row.resized or not fed.issuperset(row.reads)}
    measuring = _Measuring(reference, units, least, loose, given, told)
    counts = counting(scenario, checkpoint)
    watch = Taps({name: shown[name] for name in common}, measuring.keep, counts=counts, replaces=False)
    feed = Taps({name: sites[name] for name in fed}, measuring.measure, counts=counts)
    reference.expect(scenario)
    with watch, feed:
        sessions = (
            Paced(passes(candidate, scenario, checkpoint, watch)),
            Paced(
                passes(reference.adapter, scenario, checkpoint, feed),
                reference.following(units, None if alone is None else alone.phases),
            ),
        )
        keep_pace(sessions, order_of(scenario, checkpoint))
    return PrecisionRun(
        measuring.measured,
        sorted(units),
        lanes,
        [*measuring.alone, *measuring.kept],
        sorted(feed.refused),
    )


class _Measuring:
    """Keeps what the candidate shows until the reference comes to it."""

    def __init__(
        self,
        reference: Shadowed,
        units: Collection[int],
        least: float,
        loose: Collection[str],
        given: Mapping[Key, Tensor],
        told: Told | None,
    ) -> None:
        """`loose`: sites of pictures whose inputs are not all fed, or that are resized. `given` is put, unjudged."""
        self.kept: dict[Key, Tensor] = {}
        self.measured: list[OwnError] = []
        self.alone: list[Key] = []
        self._shadow = reference.shadow
        self._units = units
        self._least = least
        self._loose = loose
        self._given = given
        self._told = told

    def keep(self, seen: Observation) -> None:
        """Take what the candidate shows."""
        self.kept[seen.key] = seen.tensor.detach().clone()

    def measure(self, seen: Observation) -> Tensor | None:
        """Measure what the reference makes of the candidate's values; the candidate's takes its place."""
        if (given := self._given.get(seen.key)) is not None:
            return self._put(given, seen.tensor)
        shown = self.kept.pop(seen.key, None)
        if shown is None:
            return None
        if shown.shape != seen.tensor.shape:
            self.alone.append(seen.key)
            return None
        if not is_input(seen.key.site) and (one := self._compared(seen.key, shown, seen.tensor)) is not None:
            self.measured.append(one)
            if self._told is not None:
                self._told(seen.key, shown, seen.tensor)
        return self._put(shown, seen.tensor)

    def _put(self, value: Tensor, made: Tensor) -> Tensor:
        """The value, in the place of what the reference made: exact from here on."""
        put = value.to(made)
        self._shadow.put(put)
        return put

    def _compared(self, key: Key, shown: Tensor, made: Tensor) -> OwnError | None:
        if not made.is_floating_point():
            alike = _nearly_equal if key.site in self._loose else torch.equal
            return OwnError(key, made.dtype, equal=alike(shown.to(made.device), made))
        if key.unit not in self._units:
            return None
        lanes = [self._shadow.of(made, lane) for lane in range(self._shadow.lanes)]
        exact = lanes[0].to(made.dtype).double()
        errors = [_error(x.to(made.device).double(), exact) for x in (shown, made, *lanes[1:])]
        (error, gain), (reference, _), *disturbed = errors
        return OwnError(
            key,
            made.dtype,
            error,
            reference,
            math.sqrt(fmean(each**2 for each, _ in disturbed)) if disturbed else None,
            gain,
            tuple(gain for _, gain in disturbed),
            # More is allowed only where a port may cost it on purpose.
            least=FLOOR_OF_FP64 if made.dtype is shown.dtype is torch.float64 and self._least == FLOOR else self._least,
            lost=self._shadow.lost(made),
        )


def _nearly_equal(shown: Tensor, made: Tensor) -> bool:
    """Whether a few levels of two pictures are one apart, as where what they are made of was rounded differently."""
    apart = (shown.int() - made.int()).abs()
    return int(apart.max()) <= 1 and float(apart.float().mean()) <= _MOST_LEVELS


def _error(x: Tensor, exact: Tensor) -> tuple[float, float]:
    """(relative L2 distance, gain) of `x` from `exact`, both fp64."""
    finite = exact.isfinite()
    if not bool(finite.all()):
        if not bool((finite | (x == exact) | (x.isnan() & exact.isnan())).all()):
            return math.inf, 0.0
        x, exact = x[finite], exact[finite]
    difference, exact = (x - exact).flatten(), exact.flatten()
    distance, square = float(difference.norm()), float(exact.dot(exact))
    if not math.isfinite(distance):
        return math.inf, 0.0
    if not square:
        return (math.inf if distance else 0.0), 0.0
    return distance / math.sqrt(square), float(difference.dot(exact)) / square


def _series(key: Key) -> tuple[str, str, str]:
    """What the observations have in common whose gains are averaged."""
    return key.site, key.phase, key.branch


def _grouped(errors: Iterable[OwnError]) -> dict[tuple[str, str, str], list[OwnError]]:
    """Those that were measured with lanes, by their series, in the order of execution."""
    groups: dict[tuple[str, str, str], list[OwnError]] = defaultdict(list)
    for one in errors:
        if one.spread is not None and one.lane_gains and math.isfinite(one.error):
            groups[_series(one.key)].append(one)
    return groups


def _pooled(errors: Iterable[OwnError]) -> dict[tuple[str, str, str], float]:
    """The root mean square spread of every series."""
    return {at: math.sqrt(fmean((one.spread or 0.0) ** 2 for one in group)) for at, group in _grouped(errors).items()}


def _gaining(errors: Iterable[OwnError], bounds: Mapping[tuple[str, str, str], float]) -> set[int]:
    """The units in which the mean gain of a series is more than half its bound."""
    found: dict[tuple[int, tuple[str, str, str]], list[float]] = defaultdict(list)
    for one in errors:
        if one.equal is None and math.isfinite(one.error):
            found[one.key.unit, _series(one.key)].append(one.gain)
    return {unit for (unit, at), shown in found.items() if abs(fmean(shown)) > bounds.get(at, math.inf) / 2}


def gains(errors: Iterable[OwnError]) -> list[Gain]:
    """The mean gain of every series that has enough observations, in the order of execution."""
    return [_gain(*at, group) for at, group in _grouped(errors).items() if len(group) >= GAIN_OBSERVATIONS]


def _gain(site: str, phase: str, branch: str, group: Sequence[OwnError]) -> Gain:
    # Some may have been measured again, with more lanes.
    lanes = min(len(one.lane_gains) for one in group)
    means = [fmean(lane) for lane in zip(*(one.lane_gains[:lanes] for one in group), strict=True)]
    single = fmean(gain**2 for one in group for gain in one.lane_gains)
    floor = FLOOR_OF_FP64 if group[0].dtype is torch.float64 else GAIN_FLOOR
    spread = max(math.sqrt(fmean(mean**2 for mean in means)), math.sqrt(single) / 2, floor)
    factor = GAIN_FACTOR.get(group[0].dtype, GAIN_FACTOR[torch.bfloat16])
    bound = max(factor * spread, group[0].least)
    return Gain(site, phase, branch, fmean(one.gain for one in group), bound, len(group))
