"""Comparisons: the verdicts of two runs' observations, as values with a truth and a JSON form."""

import enum
import html
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.family import SlotFault
from waypoint_parity.harness.run.keys import Key, Rung, site_name

COMPARISON_SCHEMA = "waypoint-parity/comparison/2"
COMPARISON_NAME = "comparison.json"
# The two kinds of rollout: every unit inherits the errors of those before it; or caches and latents follow the
# reference after every unit.
FREE_RUNNING, TEACHER_FORCED = "free-running", "teacher-forced"
# What the errors of two runs in lockstep are taken from; those of dumps: VerdictTable.evidence.
LIVE = "tensors"
# The two questions that are asked besides the distance of values.
MATHEMATICS, PRECISION = "mathematics", "precision"
# Stands for infinity in `exact` and `local`: JSON does not know it, and None says that nothing was measured.
INFINITE = sys.float_info.max
# A first divergence of at most so many times its bound is small, and another is far larger where it is so many times
# further beyond its own.
_SMALL, _FAR_LARGER = 1e4, 1000.0


class Verdict(enum.StrEnum):
    """Of a site, and of a whole run; from the best to the worst."""

    IDENTICAL = "IDENTICAL"
    WITHIN_NOISE = "WITHIN_NOISE"
    # By statistics alone, which prove a divergence or nothing.
    NOT_REFUTED = "NOT_REFUTED"
    UNEXPLAINED = "UNEXPLAINED"
    MISSING = "MISSING"
    DIVERGED = "DIVERGED"
    INCOMPARABLE = "INCOMPARABLE"

    @property
    def passes(self) -> bool:
        """Whether parity holds."""
        return self in (Verdict.IDENTICAL, Verdict.WITHIN_NOISE)


class SiteResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one observation. `order` is its place in the reference's execution."""

    order: int
    unit: int
    phase: str
    step: int
    site: str
    branch: str = ""
    call: int = 0
    block: int | None = None
    verdict: Verdict
    # None where no distance exists (`note` says why); elsewhere also the tolerance that would have passed.
    rel_l2: float | None
    tolerance: float
    # The bound of |log(norm ratio)|; None where the norm is not judged.
    norm_tolerance: float | None = None
    cosine: float | None = None
    norm_ratio: float | None = None
    max_abs: float | None = None
    note: str | None = None
    # How far apart the exact values are (bound: judgement.SAME_MATHEMATICS); and the error that the site makes by
    # itself, over the largest that rounding explains. None where it was not measured.
    exact: float | None = None
    local: float | None = None
    # The error of a free-running session over what rounding grows to, where no exact value tells more.
    grown: float | None = None
    # Only statistics were there: the error is at least `rel_l2`, and perhaps far larger.
    at_least: bool = False
    # Of a tensor of one element that differs, the element; and in a diff the lines. First the candidate's.
    values: tuple[float, float] | None = None
    lines: tuple[int, int] | None = None

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.unit, self.phase, self.step, self.site, self.branch, self.call)

    @property
    def distance(self) -> float:
        """`rel_l2` as a number that can be ordered: infinite where there is none."""
        return math.inf if self.rel_l2 is None else self.rel_l2

    @property
    def by_itself(self) -> str | None:
        """What is wrong by itself, in words; None where nothing is, or it was not measured."""
        return _by_itself(self)

    @property
    def excess(self) -> float:
        """The error over its bound: see WorstAtSite.excess."""
        return _excess(self)

    def __str__(self) -> str:
        """One line: where, how far, and the tolerance that would have passed."""
        where = f"{self.site} at {where_in(self.key)}"
        if not self.verdict.passes and (reason := self.by_itself) is not None:
            return f"{where}: {reason}"
        if self.verdict is Verdict.UNEXPLAINED:
            beyond = f"{times(self.grown or INFINITE)} what rounding grows to by then"
            return f"{where}: {beyond}, though no site is wrong by itself; as computed {self.rel_l2:.2e}"
        if self.rel_l2 is None:
            return f"{where}: {self.note or 'infinitely far: every element of the reference is 0'}"
        if self.at_least:
            return f"{where}: relative error at least {self.rel_l2:.2e} by statistics, bound {self.tolerance:.1e}"
        distance = f"{where}: relative L2 {self.rel_l2:.2e}, tolerance {self.tolerance:.1e}"
        if self.verdict.passes:
            return distance
        if self.rel_l2 <= self.tolerance and (self.norm_ratio is None or self.norm_tolerance is None):
            # An input is compared bit for bit, and -0.0 is 0.0.
            return f"{where}: other bits, within {self.rel_l2:.2e}"
        if self.rel_l2 <= self.tolerance:
            return f"{distance}; norm ratio {self.norm_ratio:.6f}, tolerance 1 +- {self.norm_tolerance:.1e}"
        return f"{distance}, would have passed at {rounded_up(self.rel_l2)}"


def times(ratio: float) -> str:
    """A ratio to a bound, in words."""
    return "infinitely beyond" if ratio >= INFINITE else f"{ratio:.3g} times"


def where_in(key: Key) -> str:
    """In which step of which unit, in words."""
    branch = f", {key.branch}" if key.branch else ""
    return f"unit {key.unit}, {key.phase} step {key.step}{branch}"


def rounded_up(value: float) -> str:
    """`value` to three digits, never below it: a tolerance that is printed must hold when it is used."""
    text = f"{value:.2e}"
    exponent = int(text.partition("e")[2])
    return text if float(text) >= value else f"{float(text) + 10.0 ** (exponent - 2):.2e}"


class WorstAtSite(msgspec.Struct, frozen=True, kw_only=True):
    """The worst error that one site showed in one step of any unit: a rung of the layer ladder, in execution order."""

    phase: str
    step: int
    site: str
    branch: str = ""
    rel_l2: float | None
    # The bound at that unit, and so the smallest error that would have been caught there.
    tolerance: float
    unit: int
    failed: int
    observations: int
    # The largest of both at any of them: see SiteResult.
    exact: float | None = None
    local: float | None = None
    # Of a bf16 run: the largest distance of either side from a run of the reference in fp32. Information, no verdict.
    reference_to_truth: float | None = None
    candidate_to_truth: float | None = None

    @property
    def distance(self) -> float:
        """`rel_l2` as a number that can be ordered: infinite where there is none."""
        return math.inf if self.rel_l2 is None else self.rel_l2

    @property
    def rung(self) -> Rung:
        """Which site in which step."""
        return Rung(self.phase, self.step, self.site, self.branch)

    @property
    def key(self) -> Key:
        """The observation that showed it; of several calls, the first."""
        return Key(self.unit, *self.rung)

    @property
    def by_itself(self) -> str | None:
        """What is wrong by itself in any unit: see SiteResult.by_itself."""
        return _by_itself(self)

    @property
    def excess(self) -> float:
        """The error over its bound, of what the verdict rests on: more than 1 is wrong.

        That is the error of exact values and the error by itself. Where neither is known it is that of computed values.
        """
        return _excess(self)


def _by_itself(error: SiteResult | WorstAtSite) -> str | None:
    values = "" if error.rel_l2 is None else f"; as computed {error.rel_l2:.2e}"
    if error.exact is not None and error.exact > SAME_MATHEMATICS:
        apart = f"exact values {distance_text(error.exact)} apart, bound {SAME_MATHEMATICS:.0e}"
        return f"other mathematics, {apart}{values}"
    if error.local is not None and error.local >= INFINITE:
        return f"not what the reference makes of the candidate's own values{values}"
    if error.local is not None and error.local > 1:
        off = "off by itself by more than" if error.exact is None else "less precise than"
        return f"{off} rounding explains, {times(error.local)} its bound{values}"
    return None


def _excess(error: SiteResult | WorstAtSite) -> float:
    ratios = [] if error.exact is None else [error.exact / SAME_MATHEMATICS]
    ratios += [] if error.local is None else [error.local]
    if ratios:
        return max(ratios)
    if error.distance == 0:
        return 0.0
    return error.distance / error.tolerance if error.tolerance else math.inf


def distance_text(distance: float | None) -> str:
    """A distance of exact values, in words; None is an infinite one."""
    return "infinitely far" if distance is None or distance >= INFINITE else f"{distance:.1e}"


class LatentError(msgspec.Struct, frozen=True, kw_only=True):
    """The error of one unit's final latent, and the most that noise alone grows to by then."""

    unit: int
    rel_l2: float | None
    tolerance: float


class Mathematics(msgspec.Struct, frozen=True, kw_only=True):
    """Whether both sides compute the same, rounding apart: their exact values, held against each other.

    `worst` is the largest distance of those of `observations`. `unfollowed`: operations behind which there are no exact
    values, by side. `in_constants`: where they differ first they do so only because one side rounds a constant, such as
    a schedule or a table, that the other does not; None where that was not tried. `lost`: so many observations of
    `lost_sites` sites were compared without exact values of both sides; whole numbers need none.
    """

    observations: int
    worst: float | None
    bound: float
    unfollowed: dict[str, list[str]] = {}
    in_constants: bool | None = None
    # Units whose precision was not measured, and in which some site of the candidate is much further from its own exact
    # values than the reference's, and than in those that were.
    rougher: list[int] = []
    lost: int = 0
    lost_sites: int = 0

    @property
    def same(self) -> bool:
        """Whether every distance is within the bound."""
        return self.worst is not None and self.worst <= self.bound


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the candidate is as precise as rounding allows, at every site by itself: see harness.judge.precision.

    `units` are those in which `observations` were measured, with so many disturbed `lanes`. `worst` and `reference` are
    the largest errors over their bounds, at `at`; `worst_gain` is the largest mean gain over its bound.
    """

    units: list[int]
    observations: int
    lanes: int
    worst: float | None
    at: str
    reference: float | None
    worst_gain: float | None = None
    # Of dumps: the errors that would have been caught, at the most sensitive site and at the least.
    caught: tuple[float, float] | None = None
    # Mean gains of sites that are more than rounding explains, in words.
    gains: list[str] = []
    # What could not be judged, in words.
    unjudged: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether no error and no mean gain is beyond its bound; of whole numbers the sites tell."""
        within = not self.observations or (self.worst is not None and self.worst <= 1)
        return within and not self.gains

    @property
    def largest(self) -> str:
        """The largest error over its bound, in words."""
        if not self.observations:
            return "not measured"
        if self.worst is None:
            return "infinitely beyond its bound"
        return f"{self.worst:.2f} of its bound" if self.worst <= 1 else f"{times(self.worst)} its bound"

    @property
    def in_short(self) -> str:
        """The same for a table."""
        if not self.observations or self.worst is None:
            return "infinite" if self.observations else "not measured"
        if self.worst <= 1 and self.gains:
            return f"{len(self.gains)} mean gains"
        return f"{self.worst:.2f} of bound" if self.worst <= 1 else f"{self.worst:.3g} x bound"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs, compared. True where parity holds."""

    schema: str
    verdict: Verdict
    reference: str
    candidate: str
    # Where the numbers come from: "tensors" are exact, "sketches" good to 9 %.
    evidence: str
    # What judged: fixed tolerances, or a noise floor with its false-alarm rate (judgement.Bounds.to_json).
    bounds: dict[str, Any]
    # Why no score is given, for INCOMPARABLE.
    reason: str | None
    first: SiteResult | None
    worst: SiteResult | None
    counts: dict[str, int]
    # Observations that a right run shows, by the checkpoint and scenario; and those that both sides showed.
    expected: int
    compared: int
    # In execution order, cut off after harness.judge.table.MOST_FAILURES; `counts` counts them all.
    failures: list[SiteResult]
    sites: list[WorstAtSite]
    pictures: list[PictureMetrics]
    rollout: str = FREE_RUNNING
    growth: list[LatentError] = []
    # The wrong slots of the caches, first ones first.
    slots: list[SlotFault] = []
    # What else must be known of how the two were compared.
    notes: list[str] = []
    # Why parity does not hold whatever was compared: evidence that was changed or is not whole, state that outlives a
    # session. A verdict that would pass is UNEXPLAINED then.
    contradictions: list[str] = []
    # The family of the models that were compared.
    family: str = ""
    # What was asked besides the distance of values, where it could be.
    mathematics: Mathematics | None = None
    precision: Precision | None = None

    def __bool__(self) -> bool:
        return self.verdict.passes

    def __str__(self) -> str:
        """The lines that a terminal shows: the verdict, the first divergence, and what they rest on."""
        from waypoint_parity.harness.judge.comparison_text import comparison_lines

        return "\n".join(comparison_lines(self))

    def __repr__(self) -> str:
        why = "" if self else f": {self.headline}"
        return f"<Comparison {self.verdict} of {self.candidate!r} against {self.reference!r}{why}>"

    def _repr_html_(self) -> str:
        """The same lines for a notebook."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_json(self) -> str:
        """The text of `comparison.json`; `waypoint-parity schema comparison` prints its schema."""
        return to_json(self).decode()

    @property
    def question(self) -> str | None:
        """The question that fails, mathematics before precision; None where neither is known to.

        A site that is off by itself fails its precision where its exact value is known: elsewhere it may be either.
        """
        if self.mathematics is not None and not self.mathematics.same:
            return MATHEMATICS
        if self.precision is None or self.precision.holds:
            return None
        known = [rung.local for rung in self.sites if rung.exact is not None and rung.local is not None]
        return PRECISION if any(local > 1 for local in known) else None

    @property
    def stated(self) -> str:
        """The verdict, and the question that fails where it is known: "DIVERGED (precision)"."""
        if self.verdict is not Verdict.DIVERGED or self.question is None:
            return self.verdict
        return f"{self.verdict} ({self.question})"

    @property
    def headline(self) -> str:
        """Why parity does not hold, in a sentence: a contradiction, the first divergence, or why nothing was scored.

        Where it holds, how much was compared.
        """
        if self.contradictions:
            return self.contradictions[0]
        if self:
            return f"{self.compared} of {self.expected} expected observations agree"
        if self.verdict is Verdict.NOT_REFUTED:
            return f"statistics alone refute nothing, and prove no parity: {self.worst}"
        return str(self.first or self.reason or "nothing was compared")

    @property
    def larger(self) -> str | None:
        """A sentence on the largest divergence, where the first one is small beside it; None elsewhere."""
        largest = max((rung for rung in self.sites if rung.failed), key=lambda rung: rung.excess, default=None)
        if self.first is None or largest is None or not 1 < self.first.excess <= _SMALL:
            return None
        if largest.excess < _FAR_LARGER * self.first.excess:
            return None
        where = f"{site_name(largest.site, largest.branch)} in {largest.phase} step {largest.step}"
        first = f"The first divergence is {times(self.first.excess)} its bound"
        return f"{first}, but {where} is {times(largest.excess)} its own."

    @property
    def horizon(self) -> int | None:
        """The first unit whose error exceeds what noise alone grows to; None where none does.

        None also where the verdict passes: exact values may be equal where rounding alone grows beyond the bound.
        """
        if self.verdict.passes:
            return None
        return next((at.unit for at in self.growth if at.rel_l2 is None or at.rel_l2 > at.tolerance), None)


def contradicted(comparison: Comparison, contradictions: Sequence[str]) -> Comparison:
    """`comparison`, which does not pass where there are `contradictions`."""
    if not contradictions:
        return comparison
    verdict = Verdict.UNEXPLAINED if comparison else comparison.verdict
    both = [*comparison.contradictions, *contradictions]
    return msgspec.structs.replace(comparison, verdict=verdict, contradictions=both)


# Of the reference and of the candidate, from an fp32 run of the reference.
Distances = tuple[float, float]


def with_distances(comparison: Comparison, distances: Mapping[Rung, Distances]) -> Comparison:
    """`comparison` with the largest distances from the truth on every rung of the ladder that has them."""

    def annotated(rung: WorstAtSite) -> WorstAtSite:
        reference, candidate = distances.get(rung.rung, (math.inf, math.inf))
        return msgspec.structs.replace(
            rung,
            reference_to_truth=reference if math.isfinite(reference) else None,
            candidate_to_truth=candidate if math.isfinite(candidate) else None,
        )

    return msgspec.structs.replace(comparison, sites=[annotated(rung) for rung in comparison.sites])


def read_comparison(path: Path) -> Comparison:
    """The comparison in a file. Raises UserError for a broken file and for another schema."""
    return read_document(path, Comparison, COMPARISON_SCHEMA, called="a comparison", do="compare again")
