"""A noise floor as lines for a terminal."""

import math
from statistics import fmean

from waypoint_parity.harness.judge.judgement import Tolerance
from waypoint_parity.harness.judge.noise_floor.document import FALSE_ALARM_RATE, NoiseFloor, SessionFloor, floor_bounds
from waypoint_parity.harness.run.keys import Key, Rung


def floor_lines(floor: NoiseFloor, false_alarm_rate: float = FALSE_ALARM_RATE) -> list[str]:
    """A floor in a few lines for each kind of session."""
    lines = [
        f"{floor.reference} against itself, {floor.numerics['dtype']}, torch {floor.torch}, {floor.cpu_capability}, "
        f"{floor.threads} threads"
    ]
    for session in floor.sessions:
        lines += _session_lines(floor, session, false_alarm_rate)
    return lines


def _session_lines(floor: NoiseFloor, session: SessionFloor, rate: float) -> list[str]:
    fixed = Tolerance(math.inf, math.inf)
    bounds = floor_bounds(floor, session, rate, fixed)
    distance, norm = bounds.factors
    rungs = {Rung(site.phase, site.step, site.site, site.branch): site for site in session.sites}
    limits = {rung: bounds.of(Key(0, *rung)).rel_l2 for rung, site in rungs.items() if site.rel_l2[0]}
    least, most = min(limits, key=lambda at: limits[at]), max(limits, key=lambda at: limits[at])
    sigmas = ", ".join(f"{sigma:.3g}" for sigma in session.sigmas)
    given = f"given {', '.join(session.given)}" if session.given else "nothing optional given"
    return [
        f"  sigmas {sigmas}, {given}, {session.units} units, {len(session.distance_maxima)} runs",
        f"    a false alarm in {rate:.1%} of runs: {distance:.2f} times the level, {norm:.2f} times the norm's",
        f"    caught in unit 0 from a relative L2 of {_at(limits[least], least)} to {_at(limits[most], most)}",
        f"    mean relative L2 of each change: {_changes(floor, session)}",
    ]


def _at(limit: float, rung: Rung) -> str:
    return f"{limit:.1e} ({rung.site}, {rung.phase} step {rung.step})"


def _changes(floor: NoiseFloor, session: SessionFloor) -> str:
    means = [fmean(errors) for errors in zip(*(site.changes for site in session.sites), strict=True)]
    return ", ".join(f"{name} {mean:.1e}" for name, mean in zip(floor.changes, means, strict=True))
