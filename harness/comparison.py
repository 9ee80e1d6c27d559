"""Comparisons: the verdicts of two runs' observations, as values with a truth and a JSON form."""

import enum
import math
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.keys import Key, Phase
from harness.metrics import FrameMetrics

COMPARISON_SCHEMA = "waypoint-parity/comparison/1"
COMPARISON_NAME = "comparison.json"


class Verdict(enum.StrEnum):
    """Of a site, and of a whole run."""

    IDENTICAL = "IDENTICAL"
    WITHIN_NOISE = "WITHIN_NOISE"
    DIVERGED = "DIVERGED"
    MISSING = "MISSING"
    INCOMPARABLE = "INCOMPARABLE"

    @property
    def passes(self) -> bool:
        """Whether parity holds."""
        return self in (Verdict.IDENTICAL, Verdict.WITHIN_NOISE)


class SiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one observation. `order` is its place in the reference's execution."""

    order: int
    frame: int
    phase: Phase
    step: int
    site: str
    call: int
    block: int | None
    verdict: Verdict
    # None where no distance exists (`note` says why); elsewhere also the tolerance that would have passed.
    rel_l2: float | None
    tolerance: float
    cosine: float | None = None
    norm_ratio: float | None = None
    max_abs: float | None = None
    note: str | None = None

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.frame, self.phase, self.step, self.site, self.call)

    @property
    def distance(self) -> float:
        """`rel_l2` as a number that can be ordered: infinite where there is none."""
        return math.inf if self.rel_l2 is None else self.rel_l2

    def __str__(self) -> str:
        """One line: where, how far, and the tolerance that would have passed."""
        where = f"{self.site} at frame {self.frame}, {self.phase} step {self.step}"
        if self.rel_l2 is None:
            return f"{where}: {self.note}"
        distance = f"{where}: relative L2 {self.rel_l2:.2e}, tolerance {self.tolerance:.0e}"
        return distance if self.verdict.passes else f"{distance}, would have passed at {rounded_up(self.rel_l2)}"


def rounded_up(value: float) -> str:
    """`value` to three digits, never below it: a tolerance that is printed must hold when it is used."""
    text = f"{value:.2e}"
    exponent = int(text.partition("e")[2])
    return text if float(text) >= value else f"{float(text) + 10.0 ** (exponent - 2):.2e}"


class WorstAtSite(msgspec.Struct, frozen=True, kw_only=True):
    """The worst error that one site showed in one step of any frame: a rung of the layer ladder, in execution order."""

    phase: Phase
    step: int
    site: str
    rel_l2: float | None
    frame: int
    failed: int
    observations: int

    @property
    def distance(self) -> float:
        """`rel_l2` as a number that can be ordered: infinite where there is none."""
        return math.inf if self.rel_l2 is None else self.rel_l2


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs, compared. True where parity holds."""

    schema: str
    verdict: Verdict
    reference: str
    candidate: str
    # Where the numbers come from: "tensors" are exact, "sketches" good to 9 %.
    evidence: str
    tolerance: dict[str, float]
    # Why no score is given, for INCOMPARABLE.
    reason: str | None
    first: SiteResult | None
    worst: SiteResult | None
    counts: dict[str, int]
    # Observations that a right run shows, by the checkpoint and scenario; and those that both sides showed.
    expected: int
    compared: int
    # In execution order, cut off after harness.ledger.MOST_FAILURES; `counts` counts them all.
    failures: list[SiteResult]
    sites: list[WorstAtSite]
    frames: list[FrameMetrics]

    def __bool__(self) -> bool:
        return self.verdict.passes


def read_comparison(path: Path) -> Comparison:
    """The comparison in a file. Raises UserError for a broken file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as a comparison",
            found=str(error),
            expected=f"a comparison of schema {COMPARISON_SCHEMA}",
            do="compare again",
        ) from error
