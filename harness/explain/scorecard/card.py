"""The scorecard: what the instrument said of every known fault, as values with a truth and a JSON form."""

from collections.abc import Sequence

import msgspec

from waypoint_parity.harness.explain.blame.result import Proof, Share

SCORECARD_SCHEMA = "waypoint-parity/scorecard/3"
# What is asked of the instrument: shares of all single faults, of all draws of stacked ones, of the picture's error.
DETECTED, FIRST_SITE, BLAMED, STACKED, EXPLAINED = 1.0, 0.95, 0.9, 0.8, 0.9


class FaultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One known fault, and what was said of it."""

    name: str
    stage: str
    detected: bool
    # Where it was seen first, and where it was to be seen first.
    first: str | None
    expected: str
    first_site_right: bool
    part: str
    blamed: list[str]
    group_right: bool
    # Place of the true part among the causes, from 1; None where it is not among them.
    rank: int | None
    restored: bool | None
    contradictions: list[str]
    necessity: Share | None
    sufficiency: Share | None
    # The kinds of fault that its signature was taken for.
    kinds: list[str]
    # What the values at fault prove of the true part, and which kinds of fault they refute.
    proven: list[Proof]
    refuted: list[str]
    seconds: float
    # Of a fault that comes in sizes: the smallest that was detected at the right site, and the next smaller one.
    smallest: float | None = None
    missed: float | None = None
    unit: str | None = None

    @property
    def explained(self) -> bool | None:
        """Whether the true part explains the picture's error, both ways; None where the picture has none."""
        shares = [_told(share) for share in (self.necessity, self.sufficiency)]
        known = [share for share in shares if share is not None]
        return all(share >= EXPLAINED for share in known) if known else None


class StackedRow(msgspec.Struct, frozen=True, kw_only=True):
    """Several known faults at once: their parts, and those that were blamed."""

    names: list[str]
    parts: list[str]
    blamed: list[str]
    restored: bool | None
    contradictions: list[str]
    seconds: float

    @property
    def missed(self) -> list[str]:
        """The faults whose part was not blamed."""
        return [name for name, part in zip(self.names, self.parts, strict=True) if part not in self.blamed]

    @property
    def unfounded(self) -> list[str]:
        """Parts that were blamed and have no fault."""
        return [part for part in self.blamed if part not in self.parts]


class CleanRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run without a fault: the alarm that it raised, if any."""

    name: str
    stage: str
    verdict: str
    alarm: str | None
    seconds: float


class Scorecard(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of all of them. True where nothing that is asked for was missed."""

    schema: str
    faults: int
    detected: int
    first_site_right: int
    group_right: int
    blame_top1: int
    false_alarms: int
    clean_runs: int
    explained: int
    # Of how many faults the decoded pictures tell.
    explainable: int
    # A hypothesis or a relation holds in every value that was looked at.
    proven: int
    stacked: int
    stacked_named: int
    rows: list[FaultRow]
    stacked_rows: list[StackedRow]
    clean_rows: list[CleanRow]
    seconds: float

    def __bool__(self) -> bool:
        return not self.shortfalls

    @property
    def shortfalls(self) -> list[str]:
        """What falls short of what is asked for."""
        asked = [
            ("detected", self.detected, self.faults, DETECTED),
            ("right first site", self.first_site_right, self.faults, FIRST_SITE),
            ("true part blamed first", self.blame_top1, self.faults, BLAMED),
            ("picture error explained", self.explained, self.explainable, EXPLAINED),
            ("stacked faults all named", self.stacked_named, self.stacked, STACKED),
        ]
        short = [f"{what}: {has} of {of}, asked {share:.0%}" for what, has, of, share in asked if has < share * of]
        return short + ([f"false alarms: {self.false_alarms}, asked none"] if self.false_alarms else [])


def scorecard(
    rows: Sequence[FaultRow], stacked: Sequence[StackedRow], clean: Sequence[CleanRow], *, seconds: float
) -> Scorecard:
    """The scorecard of these rows."""
    told = [row.explained for row in rows if row.explained is not None]
    return Scorecard(
        schema=SCORECARD_SCHEMA,
        faults=len(rows),
        detected=sum(row.detected for row in rows),
        first_site_right=sum(row.first_site_right for row in rows),
        group_right=sum(row.group_right for row in rows),
        blame_top1=sum(row.rank == 1 for row in rows),
        false_alarms=sum(row.alarm is not None for row in clean),
        clean_runs=len(clean),
        explained=sum(told),
        explainable=len(told),
        proven=sum(any(proof.by != "extent" for proof in row.proven) for row in rows),
        stacked=len(stacked),
        stacked_named=sum(not row.missed for row in stacked),
        rows=list(rows),
        stacked_rows=list(stacked),
        clean_rows=list(clean),
        seconds=seconds,
    )


def _told(share: Share | None) -> float | None:
    """The share of the last picture's error; of all pictures' where the last one has none."""
    if share is None:
        return None
    return share.all_pictures if share.mean_abs is None else share.mean_abs
