"""The summary of a parity run: every cell's comparison, what failed to run, and which factors decide."""

from pathlib import Path
from typing import Any

import msgspec

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.judge.comparison import Comparison, Verdict

SUMMARY_SCHEMA = "waypoint-parity/summary/3"
SUMMARY_NAME = "summary.json"
TEACHER_FORCED_NAME = "comparison-teacher-forced.json"


class CellRun(msgspec.Struct, frozen=True, kw_only=True):
    """One cell that ran: where it lies, below the run's folder, and what it was.

    `factors`: the level of every factor of the sweep. `digest` of everything that its result depends on. `command`: the
    words behind `waypoint-parity` that run it again, alone.
    """

    folder: str
    digest: str
    factors: dict[str, str]
    seconds: float
    # Made by an earlier run with the same inputs and code, and not run again.
    reused: bool = False
    command: list[str] = []


class CellFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that did not run. `mistake`: it is the user's to mend; `traceback` of a fault of the harness.

    `kept`: where its dumps lie as far as they go, below the folder of the sweep.
    """

    name: str
    factors: dict[str, str]
    message: str
    mistake: bool = False
    traceback: str | None = None
    kept: str | None = None
    command: list[str] = []


class LevelEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What one level of a factor does: how many of its cells fail.

    `excess` is the median, over its cells, of the largest ratio of an error to its bound at any site; None where no
    cell has one.
    """

    factor: str
    level: str
    cells: int
    failing: int
    excess: float | None


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """Levels that together always fail: every cell with one of `levels` of each factor named. `cells` are those."""

    levels: dict[str, list[str]]
    cells: list[str]


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """Which factors decide: main effects, and the smallest combinations of levels that account for every failure."""

    # The levels of each factor that the cells have, the factors with several first.
    factors: dict[str, list[str]]
    levels: list[LevelEffect]
    combinations: list[Combination]
    # What the combinations say, in words: "8 of 12 cells fail: only with padding, at every schedule and seed".
    sentences: list[str]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A finished parity run. True where every cell ran and parity holds in it."""

    schema: str
    reference: str
    candidates: list[str]
    numerics: dict[str, str]
    family: str
    checkpoint: str
    checkpoint_digest: str
    seconds: float
    # By the cell's name, all four.
    cells: dict[str, CellRun]
    variants: dict[str, Comparison]
    teacher_forced: dict[str, Comparison] = {}
    failures: list[CellFailure] = []
    effects: Effects | None = None
    # The cell whose causes were searched; those, in a line each, and where in the pipeline the difference was born. Or
    # why none were searched where some should have been.
    blamed: str | None = None
    causes: list[str] = []
    born: str | None = None
    not_blamed: str | None = None

    @property
    def reused(self) -> int:
        """How many cells an earlier run made."""
        return sum(run.reused for run in self.cells.values())

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any cell that ran; INCOMPARABLE where none did."""
        verdicts = [self.verdict_of(name) for name in self.variants]
        return max(verdicts, key=list(Verdict).index, default=Verdict.INCOMPARABLE)

    def verdict_of(self, name: str) -> Verdict:
        """The verdict of a cell: of its free-running session, unless that of the teacher-forced one is worse."""
        return self._worse_rollout(name).verdict

    def stated_of(self, name: str) -> str:
        """The same, with the question that the cell fails: see Comparison.stated."""
        return self._worse_rollout(name).stated

    def _worse_rollout(self, name: str) -> Comparison:
        rollouts = (self.variants[name], self.teacher_forced.get(name, self.variants[name]))
        return max(rollouts, key=lambda rollout: list(Verdict).index(rollout.verdict))

    def __bool__(self) -> bool:
        return self.verdict.passes and not self.failures

    def only(self, name: str) -> "Summary":
        """The summary of one cell. Raises UserError for a cell that did not run."""
        if name not in self.cells:
            raise UserError(
                f"{name}: no cell of the run is called so",
                found="a cell that failed to run" if any(name == each.name for each in self.failures) else name,
                expected=f"one of {listed(list(self.cells))}",
                do="copy a name from the table that `parity` printed, or from summary.md",
            )
        of_another: dict[str, Any] = {"blamed": None, "causes": [], "born": None, "not_blamed": None}
        forced = {name: self.teacher_forced[name]} if name in self.teacher_forced else {}
        return msgspec.structs.replace(
            self,
            cells={name: self.cells[name]},
            variants={name: self.variants[name]},
            teacher_forced=forced,
            failures=[],
            effects=None,
            **({} if self.blamed == name else of_another),
        )


def read_summary(path: Path) -> Summary:
    """The summary in a file. Raises UserError for a broken file and for another schema."""
    return read_document(path, Summary, SUMMARY_SCHEMA, called="a summary", do="run waypoint-parity parity again")
