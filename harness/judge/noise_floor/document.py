"""The noise floor: how far two right runs of one model are apart, as a file that travels with the checkpoint.

A floor holds, for every (site, phase, step) and unit, the level: the mean error of the reference against itself under
the harmless change that shows there most. The statistic of a whole run is its largest error in units of the level. Over
runs that differ by everything harmless at once, that statistic has a distribution; a bound is the level times the
quantile that only `false_alarm_rate` of right runs exceed anywhere. So the rate is that of a run, over all its sites,
frames and steps, however they depend on each other (the maximum statistic of Westfall and Young, 1993).

The largest of many errors follows Gumbel's law (Fisher and Tippett, 1928), which is fitted to the measured runs; its
spread is taken at its 95 % upper confidence limit, because the runs are few. Distance and norm each get half the rate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

import msgspec

from waypoint_parity.harness.files import read_document, replacing
from waypoint_parity.harness.judge.judgement import Limits, Tolerance
from waypoint_parity.harness.record.records import SKETCH_SIZE, encode
from waypoint_parity.harness.run.keys import Key, Rung

FLOOR_SCHEMA = "waypoint-parity/noise-floor/3"
FALSE_ALARM_RATE = 1e-3
# Two norms of records, each summed in fp32 within a chunk: off by up to 5e-8 on 256 to 800,000 normal values.
RECORDED_NORM_ERROR = 1e-7
EULER_GAMMA = 0.5772156649015329


class SiteFloor(msgspec.Struct, frozen=True, kw_only=True):
    """What noise does at one (site, phase, step).

    `rel_l2` and `log_norm` are the levels per unit: mean relative L2 error, and root mean square of log(norm ratio).
    `quantiles` tell of the distribution over all runs and units: least, median, largest relative L2 error, and the
    same of |log(norm ratio)|. `changes` has the mean relative L2 error of each harmless change alone, in the order of
    the floor's own `changes`: their names at every site would be a quarter of the file.
    """

    phase: str
    step: int
    site: str
    branch: str = ""
    rel_l2: list[float]
    log_norm: list[float]
    quantiles: dict[str, list[float]]
    changes: list[float]


class SessionFloor(msgspec.Struct, frozen=True, kw_only=True):
    """The noise of sessions of one kind: one schedule, and the same optional fields, such as a seed image.

    `distance_maxima` and `norm_maxima` are the statistic of each run that differed by everything harmless at once.
    """

    sigmas: list[float]
    # The fields of the scenario that a session of another kind may do without.
    given: list[str]
    units: int
    distance_maxima: list[float]
    norm_maxima: list[float]
    sites: list[SiteFloor]


class NoiseFloor(msgspec.Struct, frozen=True, kw_only=True):
    """A measured noise floor, and what it was measured on."""

    schema: str
    reference: str
    numerics: dict[str, str]
    checkpoint_digest: str
    torch: str
    cpu_capability: str
    platform: str
    threads: int
    source_revision: str | None
    changes: list[str]
    sessions: list[SessionFloor]


@dataclass(frozen=True)
class FloorBounds:
    """Bounds by a noise floor, at a false-alarm rate of the whole run.

    A site or frame that the floor has no measurement of is judged by `otherwise`.
    """

    floor: NoiseFloor
    session: SessionFloor
    false_alarm_rate: float
    otherwise: Tolerance
    # How many times its level an error, and a norm's deviation, may be.
    factors: tuple[float, float]
    # Of errors taken from records: by how much an estimate from sketches may exceed the error that it estimates, and
    # how exactly the norms are known.
    estimation: float = 1.0
    norm_resolution: float = 0.0

    @property
    def units(self) -> int:
        """How many units the floor was measured on."""
        return self.session.units

    @property
    def statistics(self) -> float:
        """The largest error that statistics alone may prove."""
        return self.otherwise.statistics

    def of(self, key: Key) -> Limits:
        """The limits at `key`."""
        site = self._sites.get(key.rung)
        if site is None or key.unit >= len(site.rel_l2):
            return self.otherwise.of(key)
        distance, norm = self.factors
        norm_limit = norm * site.log_norm[key.unit] + self.norm_resolution
        return Limits(distance * self.estimation * site.rel_l2[key.unit], norm_limit)

    def for_sketches(self, observations: int) -> Self:
        """The same bounds for so many estimated errors.

        The square of an estimate is the error's square times chi-squared over k, k numbers in a sketch. Of all
        observations together only `false_alarm_rate` of right runs may exceed the margin.
        """
        beyond = _chi_squared(SKETCH_SIZE, exceeded_by=self.false_alarm_rate / max(1, observations))
        estimation = math.sqrt(beyond / SKETCH_SIZE)
        return replace(self, estimation=estimation, norm_resolution=RECORDED_NORM_ERROR)

    def to_json(self) -> dict[str, Any]:
        """What the bounds are."""
        return {
            "kind": "noise floor",
            "false-alarm rate of a run": self.false_alarm_rate,
            "reference": self.floor.reference,
            "runs": len(self.session.distance_maxima),
            "units": self.session.units,
            "levels allowed": [round(factor, 2) for factor in self.factors],
            "torch": self.floor.torch,
            "cpu": self.floor.cpu_capability,
        }

    @cached_property
    def _sites(self) -> Mapping[Rung, SiteFloor]:
        return {Rung(site.phase, site.step, site.site, site.branch): site for site in self.session.sites}


def floor_bounds(
    floor: NoiseFloor, session: SessionFloor, false_alarm_rate: float, otherwise: Tolerance
) -> FloorBounds:
    """The bounds of one kind of session at a false-alarm rate."""
    half = false_alarm_rate / 2
    factors = exceeded_by(half, session.distance_maxima), exceeded_by(half, session.norm_maxima)
    return FloorBounds(floor, session, false_alarm_rate, otherwise, factors)


def exceeded_by(rate: float, maxima: Sequence[float]) -> float:
    """What a share `rate` of runs exceeds, by the Gumbel law fitted to the `maxima` of measured runs (by moments)."""
    degrees = len(maxima) - 1
    spread = stdev(maxima) * math.sqrt(degrees / _chi_squared(degrees, exceeded_by=0.95)) * math.sqrt(6) / math.pi
    mode = fmean(maxima) - EULER_GAMMA * spread
    return mode - spread * math.log(-math.log1p(-rate))


def _chi_squared(degrees: int, *, exceeded_by: float) -> float:
    """The value that chi-squared of so many degrees exceeds with this probability."""
    # Here and not above: the processes of a diff, which are given the factors, need not wait for it.
    from scipy.special import chdtri

    return float(chdtri(degrees, exceeded_by))


def floor_path(checkpoint: Path, dtype: str) -> Path:
    """Where the floor of a dtype travels with a checkpoint folder."""
    return checkpoint / f"noise_floor.{dtype}.json"


def write_floor(floor: NoiseFloor, path: Path) -> None:
    """Write `floor`, whole or not at all; without the white space, which would be two fifths of it."""
    with replacing(path) as partial:
        partial.write_bytes(encode(floor) + b"\n")


def read_floor(path: Path) -> NoiseFloor:
    """The floor in a file. Raises UserError for a broken file and for another schema."""
    do = "measure it again: waypoint-parity floor --help"
    return read_document(path, NoiseFloor, FLOOR_SCHEMA, called="a noise floor", do=do)
