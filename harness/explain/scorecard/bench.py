"""The bench: where faults are put to the instrument, as a user would put a port to it."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.case import Case, load_case
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.blame.runs import noise_run
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.explain.scorecard.fault import Change, Stage, Suite
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures
from waypoint_parity.harness.run.variant import Variant


class Bench:
    """Holds the checkpoints of the stages, below `folder`, and the noise of their sessions, each made once."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self._suite = suite
        self._folder = folder
        self._checkpoints: dict[Callable[[Path], Checkpoint], Checkpoint] = {}
        self._noises: dict[tuple[str, str, str], Noise] = {}

    def case(self, stage: Stage, changes: Sequence[Change], *, seed: int = 0) -> Case:
        """The reference against the implementation with `changes`; another `seed` gives the session other noise."""
        checkpoint = self._checkpoint(stage)
        scenario = stage.scenario(checkpoint)
        if seed:
            other = Variant.of({"seed": str(scenario.seed + seed * scenario.units)})
            scenario = other.apply(scenario, checkpoint.geometry)
        return load_case(
            self._suite.reference,
            self._suite.implementation,
            checkpoint,
            stage.numerics,
            scenario,
            Judgement(fixed_tolerance(checkpoint.family, stage.numerics.dtype_name)),
            changed=partial(_change, changes),
        )

    def units(self, stage: Stage) -> int:
        """How many units the session of a stage has."""
        return stage.scenario(self._checkpoint(stage)).units

    def blame(self, case: Case) -> Blame:
        """Search a case for its causes."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            return Search(case, Journal(Path(folder), case.identity), gains=False, noise=self._noise(case)).run()

    def compare(self, case: Case) -> Comparison:
        """Compare the two sides of a case, and no more."""
        return lockstep(case.reference, case.candidate, case.checkpoint, case.scenario, case.judgement)

    def _checkpoint(self, stage: Stage) -> Checkpoint:
        if stage.checkpoint not in self._checkpoints:
            self._checkpoints[stage.checkpoint] = stage.checkpoint(self._folder)
        return self._checkpoints[stage.checkpoint]

    def _noise(self, case: Case) -> Noise:
        key = case.checkpoint.digest, case.scenario.digest, case.numerics.dtype_name
        if key not in self._noises:
            with decoded_pictures(case.reference.adapter, case.checkpoint.family) as right:
                run(case.reference.adapter, case.scenario, case.checkpoint)
            self._noises[key] = noise_run(case, right)
        return self._noises[key]


def _change(changes: Sequence[Change], adapter: Adapter) -> None:
    for change in changes:
        change(adapter)
