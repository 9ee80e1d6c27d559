"""Measuring a noise floor: the reference against itself under every harmless change, pass by pass, over seeds."""

import math
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from statistics import fmean, median

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.noise_floor.document import (
    FLOOR_SCHEMA,
    NoiseFloor,
    SessionFloor,
    SiteFloor,
)
from waypoint_parity.harness.judge.noise_floor.harmless import EVERYTHING, harmless
from waypoint_parity.harness.judge.noise_floor.other_process import against_another_process, other_processes
from waypoint_parity.harness.record.writer import source_revision
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.family import optional_fields
from waypoint_parity.harness.run.keys import Key, Rung, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.taps import Observation, recording
from waypoint_parity.harness.run.worker import exact_arithmetic

# Of a change alone the level is wanted; of everything at once the distribution of a whole run's largest error.
RUNS_OF_A_CHANGE = 3
FEWEST_RUNS = 5
# Between the noise seeds of two runs: a session draws frame after frame from seeds that count up.
SEED_STRIDE = 10_000


@dataclass(frozen=True)
class Planned:
    """A trial that is to be made: a change, and a session of one of several kinds."""

    change: str
    kind: int
    scenario: Scenario

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.scenario.name}, {self.change}"


@dataclass(frozen=True)
class FloorTrial:
    """The reference once against itself: every observation's error under one change."""

    run: Planned
    errors: Mapping[Key, Error]


def seeds(first: int, runs: int) -> list[int]:
    """A noise seed for every run; no two runs share a frame's noise."""
    return [first + run * SEED_STRIDE for run in range(runs)]


def measure_floor(
    implementation: str,
    checkpoint: Checkpoint,
    numerics: Numerics,
    sessions: Iterable[Sequence[Scenario]],
    progress: Callable[[Sequence[Planned]], Iterable[Planned]] = iter,
) -> NoiseFloor:
    """The floor of `implementation` on `checkpoint`.

    Each of `sessions` has scenarios of one kind: one schedule and the same optional fields, other seeds and levels.
    Raises UserError for fewer than FEWEST_RUNS of a kind, and for a scenario of another geometry.
    """
    sessions = list(sessions)
    for scenario in chain.from_iterable(sessions):
        checkpoint.family.check(scenario, checkpoint.geometry)
    changes = harmless(implementation, checkpoint, numerics)
    processes = {} if checkpoint.folder is None else other_processes(numerics)
    planned = _plan([*processes, *changes], sessions)
    reference = registry.load(implementation, checkpoint, numerics)
    # Loaded when its turn comes: a real checkpoint does not fit into memory once for every change.
    load = lru_cache(maxsize=1)(lambda change: changes[change]())

    def errors(run: Planned) -> Mapping[Key, Error]:
        if (environment := processes.get(run.change)) is None:
            return against_itself(reference, load(run.change), checkpoint, run.scenario)
        return against_another_process(implementation, reference, checkpoint, numerics, run.scenario, environment)

    trials = [FloorTrial(run, errors(run)) for run in progress(planned)]
    floors = [
        session_floor([trial for trial in trials if trial.run.kind == kind], scenarios[0], checkpoint)
        for kind, scenarios in enumerate(sessions)
    ]
    return NoiseFloor(
        schema=FLOOR_SCHEMA,
        reference=implementation,
        numerics=numerics.to_json(),
        checkpoint_digest=checkpoint.digest,
        torch=str(torch.__version__),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        platform=platform.platform(),
        threads=torch.get_num_threads(),
        source_revision=source_revision(),
        changes=[*processes, *changes],
        sessions=floors,
    )


def _plan(changes: Sequence[str], sessions: Sequence[Sequence[Scenario]]) -> list[Planned]:
    """Every trial that is to be made, one change after the other."""
    if (fewest := min(map(len, sessions))) < FEWEST_RUNS:
        raise UserError(
            "too few runs for a noise floor",
            found=f"{fewest} of a kind",
            expected=f"at least {FEWEST_RUNS}: the law of a run's largest error is fitted to them",
            do="raise --runs",
        )
    return [
        Planned(change, kind, scenario)
        for change in changes
        for kind, scenarios in enumerate(sessions)
        for scenario in (scenarios if change == EVERYTHING else scenarios[:RUNS_OF_A_CHANGE])
    ]


@exact_arithmetic()
def against_itself(
    reference: Adapter, changed: Adapter, checkpoint: Checkpoint, scenario: Scenario, *, most_passes: int | None = None
) -> dict[Key, Error]:
    """The error of every observation of `changed` from the one of `reference`, both driven pass by pass.

    `most_passes`: leave the session after so many, the reading of the prompt being the first.
    """
    errors: dict[Key, Error] = {}
    kept = _Kept()
    against = _Against(kept.tensors, errors)
    with recording(reference.sites(), kept) as first, recording(changed.sites(), against) as second:
        sessions = [
            passes(adapter, scenario, checkpoint, taps) for adapter, taps in ((reference, first), (changed, second))
        ]
        # A pass has been run when the next one is announced.
        for _ in islice(zip(*sessions, strict=True), None if most_passes is None else most_passes + 1):
            pass
    return errors


@dataclass
class _Kept:
    """The sink of the reference: what a pass showed, until the other side has shown it."""

    tensors: dict[Key, Tensor] = field(default_factory=dict)

    def observe(self, seen: Observation) -> None:
        if not is_input(seen.key.site):
            self.tensors[seen.key] = seen.tensor.clone()

    def end_pass(self) -> None:
        pass


@dataclass
class _Against:
    """The sink of the other side: the error of what it shows."""

    expected: dict[Key, Tensor]
    errors: dict[Key, Error]

    def observe(self, seen: Observation) -> None:
        if not is_input(seen.key.site):
            self.errors[seen.key] = tensor_error(seen.tensor, self.expected.pop(seen.key))

    def end_pass(self) -> None:
        pass


def session_floor(trials: Sequence[FloorTrial], scenario: Scenario, checkpoint: Checkpoint) -> SessionFloor:
    """The floor of one kind of session from its trials."""
    by_place: dict[Rung, list[tuple[str, int, Error]]] = defaultdict(list)
    for trial in trials:
        for key, error in trial.errors.items():
            by_place[key.rung].append((trial.run.change, key.unit, error))
    changes = list(dict.fromkeys(trial.run.change for trial in trials))
    sites = {place: _site_floor(place, seen, changes) for place, seen in by_place.items()}
    everything = [trial for trial in trials if trial.run.change == EVERYTHING]
    return SessionFloor(
        sigmas=checkpoint.family.sigmas(scenario, checkpoint.geometry),
        given=optional_fields(checkpoint.family, scenario.tensors),
        units=scenario.units,
        distance_maxima=[_largest(trial, sites, lambda e: e.rel_l2, lambda s: s.rel_l2) for trial in everything],
        norm_maxima=[_largest(trial, sites, lambda e: e.log_norm, lambda s: s.log_norm) for trial in everything],
        sites=list(sites.values()),
    )


def _site_floor(place: Rung, seen: Sequence[tuple[str, int, Error]], changes: Sequence[str]) -> SiteFloor:
    """The floor of one place from (change, frame, error) of all trials."""
    by_change: dict[str, dict[int, list[Error]]] = defaultdict(lambda: defaultdict(list))
    for change, frame, error in seen:
        by_change[change][frame].append(error)
    frames = range(1 + max(frame for _, frame, _ in seen))
    distances, norms = [error.rel_l2 for *_, error in seen], [error.log_norm for *_, error in seen]
    return SiteFloor(
        **place._asdict(),
        rel_l2=[_rounded(max(_mean_distance(by[frame]) for by in by_change.values())) for frame in frames],
        log_norm=[_rounded(max(_spread(by[frame]) for by in by_change.values())) for frame in frames],
        quantiles={
            "rel_l2": [_rounded(value) for value in (min(distances), median(distances), max(distances))],
            "log_norm": [_rounded(value) for value in (min(norms), median(norms), max(norms))],
        },
        changes=[
            _rounded(fmean(_mean_distance(errors) for errors in by_change[change].values())) for change in changes
        ],
    )


def _mean_distance(errors: Sequence[Error]) -> float:
    return fmean(error.rel_l2 for error in errors) if errors else 0.0


def _spread(errors: Sequence[Error]) -> float:
    return math.sqrt(fmean(error.log_norm**2 for error in errors)) if errors else 0.0


def _largest(
    trial: FloorTrial,
    sites: Mapping[Rung, SiteFloor],
    measured: Callable[[Error], float],
    levels: Callable[[SiteFloor], list[float]],
) -> float:
    """The largest error of a trial in units of the level."""
    ratios = []
    for key, error in trial.errors.items():
        if value := measured(error):
            ratios.append(value / levels(sites[key.rung])[key.unit])
    return max(ratios)


def _rounded(value: float) -> float:
    """To three digits: a level is a mean over few runs."""
    return float(f"{value:.3g}")
