"""What a scorecard is measured on: faults with their expected places, harmless changes, and stages to show them on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario

# A fresh adapter is changed in place. Changes of several faults are made one after another.
Change = Callable[[Any], None]


@dataclass(frozen=True)
class Stage:
    """A small checkpoint, a scenario for it and the numerics of a run, on which certain faults show.

    `checkpoint` writes the checkpoint into a folder and opens it.
    """

    name: str
    checkpoint: Callable[[Path], Checkpoint]
    scenario: Callable[[Checkpoint], Scenario]
    numerics: Numerics


@dataclass(frozen=True)
class ExpectedAt:
    """Where a fault is to be seen first; `site` as it is called on the fault's stage."""

    unit: int
    phase: str
    step: int
    site: str
    branch: str = ""

    @property
    def key(self) -> Key:
        """The observation."""
        return Key(self.unit, self.phase, self.step, self.site, self.branch)


@dataclass(frozen=True)
class Size:
    """A fault that comes in sizes: `change` makes it of any size, `seeded` is the size that the fault has."""

    change: Callable[[float], Change]
    seeded: float
    unit: str


@dataclass(frozen=True)
class Fault:
    """A known bug, as a small change to a fresh implementation.

    `part`: what blame is to name, of the parts of the family. `name` is only ever printed.
    """

    name: str
    summary: str
    change: Change
    stage: Stage
    first: ExpectedAt
    part: str
    size: Size | None = None


@dataclass(frozen=True)
class Harmless:
    """A change that must raise no alarm; the identity among them."""

    name: str
    change: Change
    stage: Stage
    # Another seed gives another session.
    seed: int = 0


@dataclass(frozen=True)
class Suite:
    """Everything that a scorecard runs. `implementation` is the one that is changed, against `reference`."""

    reference: str
    implementation: str
    faults: Sequence[Fault]
    harmless: Sequence[Harmless]
