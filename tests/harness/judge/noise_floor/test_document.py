import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.harness.observations import FAMILY, LATENT
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import Limits, fixed_tolerance
from waypoint_parity.harness.judge.noise_floor.document import (
    FLOOR_SCHEMA,
    FloorBounds,
    NoiseFloor,
    SessionFloor,
    SiteFloor,
    exceeded_by,
    floor_bounds,
    floor_path,
    read_floor,
    write_floor,
)
from waypoint_parity.harness.record.records import SKETCH_SIZE
from waypoint_parity.harness.run.keys import Key

SIGMAS = [1.0, 0.5, 0.0]
FIXED = fixed_tolerance(FAMILY, "fp32")


def site_floor(site: str = "latent", rel_l2: list[float] | None = None) -> SiteFloor:
    return SiteFloor(
        phase="denoise",
        step=0,
        site=site,
        rel_l2=rel_l2 or [1e-7, 2e-7],
        log_norm=[1e-8, 2e-8],
        quantiles={"rel_l2": [1e-8, 1e-7, 3e-7], "log_norm": [0.0, 1e-8, 3e-8]},
        changes=[1e-7],
    )


def session_floor(given: Sequence[str] = (), sigmas: list[float] = SIGMAS) -> SessionFloor:
    return SessionFloor(
        sigmas=sigmas,
        given=list(given),
        units=2,
        distance_maxima=[1.2, 1.3, 1.4, 1.3, 1.2],
        norm_maxima=[2.2, 2.4, 2.6, 2.4, 2.2],
        sites=[site_floor()],
    )


def noise_floor(**changes: object) -> NoiseFloor:
    floor = NoiseFloor(
        schema=FLOOR_SCHEMA,
        reference="eager",
        numerics={"dtype": "fp32"},
        checkpoint_digest="c0ffee",
        torch="2.13.0",
        cpu_capability="AVX2",
        platform="any",
        threads=1,
        source_revision=None,
        changes=["rounding"],
        sessions=[session_floor(), session_floor(given=["image"])],
    )
    return msgspec.structs.replace(floor, **changes)


@pytest.fixture
def bounds() -> FloorBounds:
    return floor_bounds(noise_floor(), session_floor(), 1e-3, FIXED)


def test_the_limits_are_multiples_of_the_levels_of_site_and_unit(bounds: FloorBounds) -> None:
    distance, norm = bounds.factors
    assert distance > 1.4
    assert norm > 2.6
    assert bounds.of(LATENT) == Limits(distance * 1e-7, norm * 1e-8)
    assert bounds.of(LATENT._replace(unit=1)) == Limits(distance * 2e-7, norm * 2e-8)


@pytest.mark.parametrize(
    "unmeasured",
    [LATENT._replace(unit=2), LATENT._replace(step=1), LATENT._replace(branch="b"), Key(0, "decode", 0, "mine")],
)
def test_what_was_not_measured_is_judged_by_the_fixed_tolerance(bounds: FloorBounds, unmeasured: Key) -> None:
    assert bounds.of(unmeasured) == FIXED.of(unmeasured)


def test_a_lower_false_alarm_rate_allows_more() -> None:
    maxima = [1.2, 1.3, 1.4, 1.3, 1.2]
    assert max(maxima) < exceeded_by(1e-1, maxima) < exceeded_by(1e-2, maxima) < exceeded_by(1e-3, maxima)


def largest_errors(runs: int, draw: np.random.Generator) -> list[float]:
    """The largest of 500 errors of a run, in units of their level: what a floor is calibrated with."""
    return list((1 + 0.1 * draw.standard_normal((runs, 500))).max(axis=1))


def test_right_runs_are_called_diverged_no_more_often_than_the_rate_says() -> None:
    """A floor of 20 runs, then 500 fresh ones, 40 times over: about 5 % of them may be beyond the bound."""
    draw = np.random.default_rng(0)
    alarms = [
        np.mean(np.array(largest_errors(500, draw)) > exceeded_by(0.05, largest_errors(20, draw))) for _ in range(40)
    ]
    assert 0 < np.mean(alarms) <= 0.05


def test_an_error_twice_the_largest_of_noise_is_beyond_the_bound() -> None:
    maxima = largest_errors(20, np.random.default_rng(1))
    assert exceeded_by(1e-3, maxima) < 2 * max(maxima)


def test_estimates_from_sketches_get_a_margin_that_they_exceed_in_no_more_runs_than_the_rate(
    bounds: FloorBounds,
) -> None:
    observations, runs = 1000, 1000
    loose = floor_bounds(bounds.floor, bounds.session, 0.05, bounds.otherwise)
    margin = loose.for_sketches(observations).of(LATENT).rel_l2 / loose.of(LATENT).rel_l2
    draw = np.random.default_rng(2)
    estimates = np.sqrt(draw.chisquare(SKETCH_SIZE, (runs, observations)) / SKETCH_SIZE)
    assert np.mean(estimates.max(axis=1) > margin) <= 0.08
    assert margin < 1.6


def test_the_norms_of_records_get_the_resolution_of_records(bounds: FloorBounds) -> None:
    exact, recorded = bounds.of(LATENT).log_norm, bounds.for_sketches(10).of(LATENT).log_norm
    assert recorded == pytest.approx(exact + 1e-7)


def test_the_bounds_say_what_they_are(bounds: FloorBounds) -> None:
    said = bounds.to_json()
    assert said["kind"] == "noise floor"
    assert said["false-alarm rate of a run"] == 1e-3
    assert (said["runs"], said["units"], said["reference"]) == (5, 2, "eager")


def test_a_floor_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_floor(noise_floor(), floor_path(tmp_path, "fp32"))
    assert (tmp_path / "noise_floor.fp32.json").is_file()
    assert read_floor(floor_path(tmp_path, "fp32")) == noise_floor()


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": "waypoint-parity/noise-floor/3"}', b"\xff\xfe"])
def test_a_broken_floor_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "floor.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a noise floor"):
        read_floor(tmp_path / "floor.json")


def test_a_floor_of_another_schema_is_refused(tmp_path: Path) -> None:
    write_floor(noise_floor(schema="waypoint-parity/noise-floor/9"), tmp_path / "floor.json")
    with pytest.raises(UserError, match="unknown schema") as error:
        read_floor(tmp_path / "floor.json")
    assert error.value.found == "waypoint-parity/noise-floor/9"


def test_equal_maxima_have_no_spread() -> None:
    assert math.isclose(exceeded_by(1e-3, [1.5] * 5), 1.5)
