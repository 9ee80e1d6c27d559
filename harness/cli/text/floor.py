"""A noise floor as lines for a terminal."""

from statistics import fmean

from waypoint_parity.harness.judge.judgement import fixed_tolerance
from waypoint_parity.harness.judge.noise_floor.document import FALSE_ALARM_RATE, NoiseFloor, SessionFloor, floor_bounds
from waypoint_parity.harness.run.keys import Key


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
    bounds = floor_bounds(floor, session, rate, fixed_tolerance(floor.numerics["dtype"]))
    distance, norm = bounds.factors
    limits = {
        (site.phase, site.step, site.site): bounds.of(Key(0, site.phase, site.step, site.site)).rel_l2
        for site in session.sites
        if site.rel_l2[0]
    }
    least, most = min(limits, key=lambda at: limits[at]), max(limits, key=lambda at: limits[at])
    sigmas = ", ".join(f"{sigma:.3g}" for sigma in session.sigmas)
    seeded = "seeded with an image" if session.image else "from noise alone"
    return [
        f"  sigmas {sigmas}, {seeded}, {session.frames} frames, {len(session.distance_maxima)} runs",
        f"    a false alarm in {rate:.1%} of runs: {distance:.2f} times the level, {norm:.2f} times the norm's",
        f"    caught in frame 0 from a relative L2 of {_at(limits[least], least)} to {_at(limits[most], most)}",
        f"    mean relative L2 of each change: {_changes(floor, session)}",
    ]


def _at(limit: float, place: tuple[str, int, str]) -> str:
    phase, step, site = place
    return f"{limit:.1e} ({site}, {phase} step {step})"


def _changes(floor: NoiseFloor, session: SessionFloor) -> str:
    means = [fmean(errors) for errors in zip(*(site.changes for site in session.sites), strict=True)]
    return ", ".join(f"{name} {mean:.1e}" for name, mean in zip(floor.changes, means, strict=True))
