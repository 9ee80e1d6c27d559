"""What a search for the causes of a divergence found, as values with a truth and a JSON form."""

import math
from pathlib import Path
from typing import Literal

import msgspec

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, Verdict, where_in
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.keys import Key, Rung

BLAME_SCHEMA = "waypoint-parity/blame/2"
BLAME_NAME = "blame.json"


class LocalError(msgspec.Struct, frozen=True, kw_only=True):
    """A local error: what one site does wrong by itself. `rel_l2` is None where no distance exists, `note` says why."""

    unit: int
    phase: str
    step: int
    site: str
    branch: str = ""
    call: int = 0
    rel_l2: float | None
    bound: float
    norm_ratio: float | None = None
    note: str | None = None

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.unit, self.phase, self.step, self.site, self.branch, self.call)

    @property
    def distance(self) -> float:
        """The relative L2 error; infinite where no distance exists."""
        return math.inf if self.rel_l2 is None else self.rel_l2

    @property
    def as_error(self) -> Error:
        """The same as it was measured."""
        return Error(identical=False, rel_l2=self.distance, norm_ratio=self.norm_ratio, note=self.note)

    def __str__(self) -> str:
        where = f"{self.site} at {where_in(self.key)}"
        return f"{where}: {self.note}" if self.rel_l2 is None else f"{where}: {self.rel_l2:.2e}, bound {self.bound:.1e}"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the difference between two runs' pictures goes away with an exchange: 1 is all of it.

    Of the final picture: mean absolute difference, lost SSIM, lost sharpness; and the mean absolute difference over all
    pictures. None where the two runs do not differ in it by more than noise.
    """

    mean_abs: float | None
    ssim: float | None
    sharpness: float | None
    all_pictures: float | None


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """How a cause shows: what kinds of fault can be told by. For its words see harness.explain.blame.signature."""

    onset: list[str]
    layers: str
    norm: str
    course: str
    # What control experiments showed, such as "only with padding".
    controls: list[str] = []


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of fault that looks like a cause, and what to check in the code."""

    kind: str
    check: str


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What holds of the values at `site`, in all `observations` looked at.

    A "hypothesis" is a kind of fault that gives what the candidate shows, a "relation" is how that follows from what is
    right, an "extent" says where alone it is wrong. `before` and `after`: the largest relative L2 error as it is, and
    what is left of it; of an extent, what is wrong elsewhere.
    """

    site: str
    by: Literal["hypothesis", "relation", "extent"]
    statement: str
    before: float
    after: float
    observations: int

    def __str__(self) -> str:
        told = f"{self.before:.1e} -> {self.after:.1e} in {self.observations} of {self.observations}"
        return f"{self.statement}, at {self.site} ({told})"


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A part that does something wrong by itself: `name` is the part's with the blocks, where it is not all of them."""

    name: str
    part: str
    group: str
    blocks: list[int] | None
    sites: list[str]
    first: LocalError
    worst: LocalError
    # Observations of the part with an error of their own, of all.
    failed: int
    observed: int
    # Sites that the implementation does not show or does not let be patched: the fault may lie there instead.
    region: list[str]
    # The parts of those sites, in the order of execution.
    region_parts: list[str] = []
    signature: Signature
    explanations: list[Explanation]
    # What was found in the values themselves.
    proofs: list[Proof] = []
    # Kinds of fault that were tried and do not give the values.
    refuted: list[str] = []
    # What the candidate is spared with the reference's part, and what the reference suffers with the candidate's.
    necessity: Share | None = None
    sufficiency: Share | None = None
    # Relative change of the decoded picture for a relative change of 1 at `first.site`, in the reference.
    gain: float | None = None


class ExchangeShares(msgspec.Struct, frozen=True, kw_only=True):
    """What was exchanged because the user asked for it, and what became of it: see Cause."""

    name: str
    necessity: Share | None
    sufficiency: Share | None


class SiteErrors(msgspec.Struct, frozen=True, kw_only=True):
    """The largest errors of one site in one step of any unit: its own (`local`), and with what it inherited.

    None where no distance exists, or where none was measured: `inherited` is of the free-running session, `gain` (see
    Cause) of the sites that it was asked for.
    """

    phase: str
    step: int
    site: str
    branch: str = ""
    local: float | None
    bound: float
    inherited: float | None = None
    gain: float | None = None

    @property
    def rung(self) -> Rung:
        """Which site in which step."""
        return Rung(self.phase, self.step, self.site, self.branch)


class Blame(msgspec.Struct, frozen=True, kw_only=True):
    """The causes of a divergence, the largest first. True where parity holds and nothing is to blame."""

    schema: str
    reference: str
    candidate: str
    # The free-running session.
    comparison: Comparison
    causes: list[Cause]
    # Whose sites were patched: the reference's where the candidate's can only be watched.
    fed: Literal["candidate", "reference"]
    # Whether the two agree once that side has the other's parts of all causes; None where that was not run.
    restored: bool | None
    # What diverges nevertheless.
    left: str | None
    # Evidence that does not fit together; with any the causes are not to be relied on.
    contradictions: list[str]
    # Runs that the budget did not allow, and what could not be exchanged.
    unmeasured: list[str]
    sites: list[SiteErrors]
    seconds: float
    # What the user asked to be exchanged besides.
    exchanges: list[ExchangeShares] = []

    def __bool__(self) -> bool:
        return bool(self.comparison)

    def __str__(self) -> str:
        """The lines that a terminal shows: the causes, the largest first, and how they are known."""
        from waypoint_parity.harness.explain.blame.text import blame_lines

        return "\n".join(blame_lines(self))

    def __repr__(self) -> str:
        causes = ", ".join(cause.name for cause in self.causes) or "no cause"
        return f"<Blame {self.comparison.verdict} of {self.candidate!r} against {self.reference!r}: {causes}>"

    @property
    def verdict(self) -> Verdict:
        """That of the free-running session."""
        return self.comparison.verdict

    @property
    def first(self) -> SiteResult | None:
        """The first divergence of the free-running session."""
        return self.comparison.first

    def to_json(self) -> str:
        """The text of `blame.json`."""
        return to_json(self).decode()


def read_blame(path: Path) -> Blame:
    """The blame in a file. Raises UserError for a broken file and for another schema."""
    return read_document(path, Blame, BLAME_SCHEMA, called="a blame", do="run waypoint-parity blame again")
