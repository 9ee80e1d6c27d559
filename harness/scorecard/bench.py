"""The bench: where faults are put to the instrument, as a user would put a port to it."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.adapter import Adapter
from harness.blame.case import Case, load_case
from harness.blame.journal import Journal
from harness.blame.noise import Noise
from harness.blame.pictures import pictures_of
from harness.blame.result import Blame
from harness.blame.runs import noise_run
from harness.blame.search import Search
from harness.checkpoint import Checkpoint
from harness.comparison import Comparison
from harness.judgement import Judgement, fixed_tolerance
from harness.lockstep import lockstep
from harness.scorecard.fault import Change, Stage, Suite
from harness.session import run
from harness.variant import Variant


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
            scenario = Variant(seed=scenario.seed + seed * scenario.frames).apply(scenario, checkpoint.transformer)
        return load_case(
            self._suite.reference,
            self._suite.implementation,
            checkpoint,
            stage.numerics,
            scenario,
            Judgement(fixed_tolerance(stage.numerics.dtype_name)),
            changed=partial(_change, changes),
        )

    def frames(self, stage: Stage) -> int:
        """How many frames the session of a stage has."""
        return stage.scenario(self._checkpoint(stage)).frames

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
            with pictures_of(case.reference.adapter) as right:
                run(case.reference.adapter, case.scenario, case.checkpoint.transformer)
            self._noises[key] = noise_run(case, right)
        return self._noises[key]


def _change(changes: Sequence[Change], adapter: Adapter) -> None:
    for change in changes:
        change(adapter)
