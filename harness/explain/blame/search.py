"""The search: local errors, the parts at fault exchanged, again until nothing is left; then what each of them costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial

import msgspec

from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import FourPartError
from waypoint_parity.harness.explain.blame.arrival import Sealed
from waypoint_parity.harness.explain.blame.case import Case
from waypoint_parity.harness.explain.blame.causes import Measured, annotated, cause, ranked
from waypoint_parity.harness.explain.blame.exchanges import Exchange
from waypoint_parity.harness.explain.blame.findings import Finding
from waypoint_parity.harness.explain.blame.journal import Journal, OutOfBudgetError, Result
from waypoint_parity.harness.explain.blame.local import must_be_reversed
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.pictures import PictureDifference, difference, share
from waypoint_parity.harness.explain.blame.result import (
    BLAME_SCHEMA,
    Blame,
    Cause,
    ExchangeShares,
    Share,
    SiteErrors,
)
from waypoint_parity.harness.explain.blame.runs import (
    ArrivalRun,
    EvidenceRun,
    FreeRun,
    GainRun,
    LocalRun,
    MendedRun,
    PicturesRun,
    arrival_run,
    evidence_run,
    free_run,
    gain_run,
    grafted_run,
    local_run,
    mended_pictures,
    mended_run,
    noise_run,
    pictures_in,
    spoilt_pictures,
)
from waypoint_parity.harness.run.keys import At, Key

# Faults that show only once others are mended. Local errors show all at once: a second round is rare.
MOST_ROUNDS = 4


@dataclass(frozen=True)
class _Base:
    """What every later run is compared with: the free-running sessions, their pictures and the noise."""

    free: FreeRun
    noise: Noise
    right: list[Pixels]
    wrong: list[Pixels]

    @cached_property
    def from_the_candidate(self) -> PictureDifference | None:
        """How far the reference's pictures are from the candidate's."""
        return difference(self.right, self.wrong)


@dataclass(frozen=True)
class _Searched:
    """Where the rounds ended: the parts found, the local errors of the first round, the candidate as last mended."""

    findings: list[Finding]
    ladder: list[SiteErrors]
    mended: MendedRun | None
    evidence: list[EvidenceRun]


class Search:
    """One search for the causes of a case; every run of sessions goes through the journal."""

    def __init__(
        self,
        case: Case,
        journal: Journal,
        *,
        gains: bool = True,
        gain_sites: Sequence[str] = (),
        noise: Noise | None = None,
        exchanges: Sequence[Exchange] = (),
    ) -> None:
        """`gains`: measure how the reference amplifies an error at each cause, two sessions a cause.

        `gain_sites`: globs of sites where to measure it besides. `noise` of the case, where it was measured before.
        `exchanges`: what to exchange besides the causes.
        """
        self._measures_gains = gains
        self._gain_sites = gain_sites
        self._gains: dict[str, float | None] = {}
        self._wanted = exchanges
        self._noise = noise
        self._journal = journal
        self._unmeasured: list[str] = [*case.left_out]
        self._drive(case)

    def run(self) -> Blame:
        """Search, and tell what was found. Raises OutOfBudgetError where there is no time for the first runs."""
        case, folder = self._case, self._journal.folder
        self._started = time.monotonic()
        free = self._journal.once("free", FreeRun, lambda: free_run(case, folder))
        right, wrong = pictures_in(folder)
        noise = self._noise or self._journal.once("noise", Noise, lambda: noise_run(case, right))
        base = _Base(free, noise, right, wrong)
        searched = self._rounds(base)
        causes = [self._cause(finding, searched, base) for finding in searched.findings]
        for site in dict.fromkeys(rung.site for rung in searched.ladder):
            if any(fnmatchcase(site, glob) for glob in self._gain_sites):
                self._gain(site)
        mended = searched.mended
        return Blame(
            schema=BLAME_SCHEMA,
            reference=case.reference.name,
            candidate=case.candidate.name,
            comparison=free.comparison,
            causes=ranked(causes, case.family),
            restored=None if mended is None or mended.refused else mended.left is None,
            left=None if mended is None else mended.left,
            fed="candidate" if self._exchangeable else "reference",
            contradictions=_contradictions(searched, free),
            unmeasured=self._unmeasured,
            sites=annotated(searched.ladder, free.comparison, self._gains),
            exchanges=[self._exchange(wanted, base) for wanted in self._wanted],
            seconds=time.monotonic() - self._started,
        )

    def _drive(self, case: Case) -> None:
        """Search in this case from now on."""
        self._case = case
        self._exchangeable = not must_be_reversed(case.candidate.adapter.sites())
        if not self._exchangeable:
            self._unmeasured.append("necessity: the candidate's sites cannot be patched")

    def _first_local(self, noise: Noise) -> LocalRun:
        """What is wrong by itself. Where that is much, perhaps the candidate only shows what it does."""
        local = self._journal.once("local 0", LocalRun, partial(local_run, self._case, noise, []))
        if len(local.findings) < 2 or not self._exchangeable:
            return local
        idle = self._journal.once("arrival", ArrivalRun, partial(arrival_run, self._case)).idle
        if not idle:
            return local
        side = self._case.candidate
        self._drive(replace(self._case, candidate=replace(side, adapter=Sealed(side.adapter, idle))))
        self._unmeasured.append(f"sites that only show their values: {len(idle)}, first {idle[0]}")
        return self._journal.once("local watched", LocalRun, partial(local_run, self._case, noise, []))

    def _rounds(self, base: _Base) -> _Searched:
        """Measure local errors, exchange the parts that have some, and again, until parity holds or none is new."""
        found: list[Finding] = []
        ladder: list[SiteErrors] = []
        evidence: list[EvidenceRun] = []
        mended = None
        for number in range(MOST_ROUNDS):
            exchanges = [finding.exchange for finding in found]
            # Without the first there is nothing to tell.
            again = partial(local_run, self._case, base.noise, exchanges)
            local = self._attempt(f"local {number}", LocalRun, again) if number else self._first_local(base.noise)
            if local is None:
                break
            ladder = ladder or local.sites
            new = [finding for finding in local.findings if finding.exchange not in exchanges]
            found += new
            if not new:
                break
            # As long as all that came before: a search takes twice as much with what exchanges cost.
            until = 2 * time.monotonic() - self._started
            over = partial(_is_over, until)
            look = partial(evidence_run, self._case, base.noise, exchanges, new, over)
            evidence += filter(None, [self._attempt(f"evidence {number}", EvidenceRun, look)])
            exchanges = [finding.exchange for finding in found]
            if self._exchangeable:
                unmatched: list[At | Key] = [*local.alone, *local.lacking]
                mend = partial(mended_run, self._case, exchanges, base.right, unmatched)
            else:
                mend = partial(grafted_run, self._case, exchanges, base.wrong)
            mended = self._attempt(f"mended {number}", MendedRun, mend)
            if mended is None or mended.left is None or not self._exchangeable:
                break
        return _Searched(found, ladder, mended, evidence)

    def _cause(self, finding: Finding, searched: _Searched, base: _Base) -> Cause:
        """A finding with what it costs, as far as the budget goes."""
        # Where it is the only one, the rounds have shown a part of that.
        shown = searched.mended if len(searched.findings) == 1 else None
        measured = Measured(
            necessity=self._necessity(finding.exchange, base, shown),
            sufficiency=self._sufficiency(finding.exchange, base, shown),
            gain=self._gain(finding.errors[0].site) if self._measures_gains else None,
            controls=self._controls(finding, base),
        )
        found = cause(finding, measured, self._case.checkpoint, self._case.scenario)
        proofs = [proof for run in searched.evidence for proof in run.proofs.get(finding.part, [])]
        refuted = [kind for run in searched.evidence for kind in run.refuted.get(finding.part, [])]
        # What is proven leaves no guess.
        proven = {proof.statement.partition(": ")[0] for proof in proofs if proof.by == "hypothesis"}
        plausible = [kind for kind in found.explanations if kind.kind in proven or not (proven or kind.kind in refuted)]
        return msgspec.structs.replace(found, proofs=proofs, refuted=refuted, explanations=plausible)

    def _exchange(self, wanted: Exchange, base: _Base) -> ExchangeShares:
        necessity, sufficiency = self._necessity(wanted, base), self._sufficiency(wanted, base)
        return ExchangeShares(name=wanted.name, necessity=necessity, sufficiency=sufficiency)

    def _necessity(self, exchange: Exchange, base: _Base, shown: MendedRun | None = None) -> Share | None:
        """What the candidate is spared with the reference's part."""
        if not self._exchangeable:
            return None
        run = partial(mended_pictures, self._case, [exchange], base.right)
        after = shown or self._exchanged(f"necessity of {exchange.name}", run)
        return share(base.free.difference, None if after is None else after.difference, base.noise.pictures)

    def _sufficiency(self, exchange: Exchange, base: _Base, shown: MendedRun | None = None) -> Share | None:
        """What the reference suffers with the candidate's part.

        Of a candidate that cannot be patched only the cause that is the only one can tell: what it shows at one of
        several is not its own alone.
        """
        after: MendedRun | PicturesRun | None = shown
        if self._exchangeable:
            run = partial(spoilt_pictures, self._case, [exchange], base.wrong)
            after = self._exchanged(f"sufficiency of {exchange.name}", run)
        return share(base.from_the_candidate, None if after is None else after.difference, base.noise.pictures)

    def _exchanged(self, name: str, run: Callable[[], PicturesRun]) -> PicturesRun | None:
        after = self._attempt(name, PicturesRun, run)
        if after is not None and after.refused:
            self._unmeasured.append(f"{name} at {', '.join(after.refused)}: not to be exchanged")
        return after

    def _gain(self, site: str) -> float | None:
        """How the reference amplifies an error at a site; measured once."""
        if site not in self._gains:
            run = self._attempt(f"gain at {site}", GainRun, lambda: gain_run(self._case, site))
            self._gains[site] = None if run is None else run.gain
        return self._gains[site]

    def _controls(self, finding: Finding, base: _Base) -> list[str]:
        """What a control experiment shows of the part, where its family has one: its local error there."""
        case = self._case
        control = case.family.control(finding.part, case.scenario, case.checkpoint.geometry)
        if control is None:
            return []
        scenario, wrong_there, right_there = control
        # Parts may have one experiment in common.
        name = f"local in the control {scenario.digest[:8]}"
        run = self._attempt(name, LocalRun, lambda: local_run(replace(case, scenario=scenario), base.noise, []))
        if run is None:
            return []
        return [wrong_there if any(other.part == finding.part for other in run.findings) else right_there]

    def _attempt(self, name: str, kind: type[Result], run: Callable[[], Result]) -> Result | None:
        """The result of a run that the search can do without: where the budget is spent, and where the run fails."""
        try:
            return self._journal.once(name, kind, run)
        except OutOfBudgetError:
            self._unmeasured.append(name)
        except FourPartError as error:
            self._unmeasured.append(f"{name}: {error.what}, {error.found}")
        return None


def _is_over(until: float) -> bool:
    return time.monotonic() > until


def _contradictions(searched: _Searched, free: FreeRun) -> list[str]:
    """Evidence that does not fit together."""
    found = []
    if not free.comparison and not searched.findings:
        found.append("parity fails, and no site does anything wrong by itself")
    if searched.mended is not None and searched.mended.left is not None:
        found.append(f"with the parts of all causes exchanged there is still {searched.mended.left}")
    if searched.mended is not None and searched.mended.refused:
        found.append(f"could not be exchanged: {', '.join(searched.mended.refused)}")
    return found
