"""The runs of a search: each drives one or two sessions and returns what it showed, ready to be written down."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from waypoint_parity.harness.compare.contract import accepted_sites
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.explain.blame.arrival import idle_sites
from waypoint_parity.harness.explain.blame.case import Case
from waypoint_parity.harness.explain.blame.evidence import Evidence
from waypoint_parity.harness.explain.blame.exchange import Exchanged
from waypoint_parity.harness.explain.blame.exchanges import Exchange, exchanged
from waypoint_parity.harness.explain.blame.explanations import likeliest
from waypoint_parity.harness.explain.blame.findings import Finding, findings
from waypoint_parity.harness.explain.blame.gain import gain
from waypoint_parity.harness.explain.blame.hypotheses import PartAtFault, tried
from waypoint_parity.harness.explain.blame.local import LocalErrors, LocalValues, local_errors, must_be_reversed
from waypoint_parity.harness.explain.blame.noise import Noise, measure_noise
from waypoint_parity.harness.explain.blame.pictures import PictureDifference, difference
from waypoint_parity.harness.explain.blame.result import Proof, Signature, SiteErrors
from waypoint_parity.harness.explain.blame.signature import signature
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.table import finite
from waypoint_parity.harness.run.adapter import Adapter, Hypothesis
from waypoint_parity.harness.run.engine import engine_works
from waypoint_parity.harness.run.keys import At, Key, Rung
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures

PICTURES_NAME = "free.npz"


class FreeRun(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides as they are. Their decoded pictures lie beside it, in PICTURES_NAME."""

    comparison: Comparison
    difference: PictureDifference | None


class LocalRun(msgspec.Struct, frozen=True, kw_only=True):
    """What each part does wrong by itself, and the largest local error of every site."""

    findings: list[Finding]
    sites: list[SiteErrors]
    # What there is nothing to judge at: steps that only one side has, and what the candidate leaves out of others.
    alone: list[At]
    lacking: list[Key]


class MendedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate with the reference's parts.

    `difference` of its pictures from the reference's; `left`: what still diverges and is not exchanged; `refused`:
    sites that could not be exchanged.
    """

    difference: PictureDifference | None
    left: str | None
    refused: list[str]


class PicturesRun(msgspec.Struct, frozen=True, kw_only=True):
    """How far the decoded pictures of an implementation with parts of another are from that other one's.

    `refused`: sites that could not be exchanged.
    """

    difference: PictureDifference | None
    refused: list[str]


class ArrivalRun(msgspec.Struct, frozen=True, kw_only=True):
    """The sites of the candidate that only show their values."""

    idle: list[str]


class EvidenceRun(msgspec.Struct, frozen=True, kw_only=True):
    """What is proven of the parts at fault, and which kinds of fault are refuted, by part."""

    proofs: dict[str, list[Proof]]
    refuted: dict[str, list[str]]


class GainRun(msgspec.Struct, frozen=True, kw_only=True):
    """See harness.explain.blame.gain."""

    gain: float | None


def free_run(case: Case, folder: Path) -> FreeRun:
    """Run both sides as they are, and keep their decoded pictures in `folder`."""
    family = case.family
    with (
        decoded_pictures(case.reference.adapter, family) as right,
        decoded_pictures(case.candidate.adapter, family) as wrong,
    ):
        comparison = lockstep(case.reference, case.candidate, case.checkpoint, case.scenario, case.judgement)
    with replacing(folder / PICTURES_NAME) as partial, partial.open("wb") as file:
        # One by one: they need not be of one size.
        np.savez(file, np.array(len(right)), *right, *wrong)
    return FreeRun(comparison=comparison, difference=difference(wrong, right))


def pictures_in(folder: Path) -> tuple[list[Pixels], list[Pixels]]:
    """The decoded pictures that `free_run` kept: the reference's and the candidate's."""
    with np.load(folder / PICTURES_NAME) as kept:
        number, *pictures = (kept[f"arr_{place}"] for place in range(len(kept.files)))
    return pictures[: int(number)], pictures[int(number) :]


def noise_run(case: Case, right: Sequence[Pixels]) -> Noise:
    """The noise of the case; `right` are the reference's decoded pictures."""
    return measure_noise(case.reference.adapter, case.rounded(), case.checkpoint, case.scenario, right)


def arrival_run(case: Case) -> ArrivalRun:
    """Try where the candidate goes on with another value."""
    idle = idle_sites(case.candidate.adapter, case.spare, case.checkpoint, case.scenario)
    return ArrivalRun(idle=sorted(idle))


def local_run(case: Case, noise: Noise, exchanges: Sequence[Exchange]) -> LocalRun:
    """What is wrong by itself once `exchanges` are made."""
    local = _local(case, exchanges)
    found = findings(local, noise, case.wiring, accepted_sites(case.judgement.accepted_inputs, case.family))
    return LocalRun(
        findings=found, sites=_ladder(local, noise, case), alone=[at for at, _ in local.alone], lacking=local.lacking
    )


def evidence_run(
    case: Case,
    noise: Noise,
    exchanges: Sequence[Exchange],
    found: Sequence[Finding],
    is_over: Callable[[], bool] = lambda: False,
) -> EvidenceRun:
    """What the values show of what was `found` once `exchanges` were made: the same run once more, and hypotheses.

    Hypotheses are tried until the time for them `is_over`.
    """
    evidence = Evidence(found, case.table)
    local = _local(case, exchanges, evidence.look)
    proofs, refuted = evidence.proofs(), dict[str, list[str]]()

    def bound(key: Key) -> float:
        return _bound(key, local, noise, case)

    off = {key: error.rel_l2 for key, error in local.errors.items() if error.rel_l2 > bound(key)}
    # With parts exchanged the candidate is no longer the one to be reproduced.
    for finding in [] if exchanges else found:
        pairs = [pair for (part, _), these in evidence.pairs.items() if part == finding.part for pair in these]
        if pairs:
            own = frozenset(seen.key for seen in finding.errors if seen.rel_l2 is not None)
            watched = must_be_reversed(case.candidate.adapter.sites())
            wrong = PartAtFault(finding.part, pairs, own, off, frozenset(local.lacking), bound, watched)
            try_it = partial(_hypothetical, case)
            kinds = [kind.kind for kind in likeliest(finding.part, _signature(finding, case), case.family)]
            more, refuted[finding.part] = tried(wrong, case.hypotheses, kinds, try_it, is_over)
            shown = [proof for proof in proofs.get(finding.part, []) if not more or proof.by != "extent"]
            proofs[finding.part] = [*more, *shown]
    return EvidenceRun(proofs=proofs, refuted=refuted)


def _signature(finding: Finding, case: Case) -> Signature:
    return signature({seen.key: seen.as_error for seen in finding.errors}, case.checkpoint, case.scenario)


def _hypothetical(
    case: Case, hypothesis: Hypothesis, looking: Callable[[LocalValues], None], units: int | None
) -> LocalErrors:
    """The reference with a change, fed as the candidate was; `looking` is shown as `actual` what it makes of that."""
    changed, scenario = case.fresh(), case.scenario
    with engine_works(hypothesis.kind, lambda: "while a mistake was made in the reference"):
        hypothesis.change(changed)
    scenario = scenario if units is None else case.family.first_units(scenario, units)
    if must_be_reversed(case.candidate.adapter.sites()):
        sides = changed, case.candidate.adapter
        return local_errors(*sides, case.checkpoint, scenario, reverse=True, looking=lambda seen: looking(seen.turned))
    return local_errors(case.reference.adapter, changed, case.checkpoint, scenario, looking=looking)


def _bound(key: Key, local: LocalErrors, noise: Noise, case: Case) -> float:
    return noise.bound(key.site, case.table.kind(key.site), local.roundoff.get(key, 0.0))


def _local(
    case: Case, exchanges: Sequence[Exchange], looking: Callable[[LocalValues], None] = lambda seen: None
) -> LocalErrors:
    candidate, reverse = case.candidate.adapter, must_be_reversed(case.candidate.adapter.sites())
    with ExitStack() as mended:
        if exchanges:
            candidate = mended.enter_context(Exchanged(candidate, case.spare, exchanges, case.checkpoint))
        sessions = case.reference.adapter, candidate, case.checkpoint, case.scenario
        return local_errors(*sessions, reverse=reverse, looking=looking)


def _ladder(local: LocalErrors, noise: Noise, case: Case) -> list[SiteErrors]:
    """The largest local error of every site in every step, in the order of execution."""
    worst: dict[Rung, tuple[float, Key]] = {}
    for key, error in local.errors.items():
        if key.rung not in worst or error.rel_l2 > worst[key.rung][0]:
            worst[key.rung] = error.rel_l2, key
    return [
        SiteErrors(
            **rung._asdict(),
            local=finite(error),
            bound=_bound(key, local, noise, case),
        )
        for rung, (error, key) in worst.items()
    ]


def mended_run(
    case: Case, exchanges: Sequence[Exchange], right: Sequence[Pixels], unmatched: Collection[At | Key]
) -> MendedRun:
    """The candidate with the reference's parts, judged at every other site; `right`: the reference's pictures.

    `unmatched`: steps and observations that are not both sides', where there is nothing to judge.
    """
    with (
        Exchanged(case.candidate.adapter, case.spare, exchanges, case.checkpoint) as mended,
        decoded_pictures(mended, case.family) as pictures,
    ):
        side = Side(case.candidate.name, mended)
        comparison = lockstep(case.reference, side, case.checkpoint, case.scenario, case.judgement)
    left = _left(case, comparison, exchanges, frozenset(unmatched))
    return MendedRun(difference=difference(pictures, right), left=left, refused=sorted(mended.refused))


def _left(
    case: Case, comparison: Comparison, exchanges: Sequence[Exchange], unmatched: Collection[At | Key]
) -> str | None:
    """The first failure of a comparison outside of what was exchanged and of what is unmatched."""
    if comparison.reason is not None:
        return comparison.reason

    def counts(key: Key) -> bool:
        return key.at not in unmatched and key not in unmatched and not exchanged(key, exchanges, case.table)

    first = next((str(failure) for failure in comparison.failures if counts(failure.key)), None)
    # The list of failures is cut off, the ladder of sites is not.
    rungs = (rung for rung in comparison.sites if rung.failed)
    return first or next((rung.site for rung in rungs if counts(rung.key)), None)


def grafted_run(case: Case, exchanges: Sequence[Exchange], wrong: Sequence[Pixels]) -> MendedRun:
    """The reference with what the candidate shows at `exchanges`: all that a candidate without patches can be asked.

    `left` is then what of the candidate's other sites this does not account for; `wrong` are its decoded pictures.
    """
    reference, candidate, bounds = case.reference.adapter, case.candidate.adapter, case.judgement.bounds

    def taken(key: Key) -> bool:
        return exchanged(key, exchanges, case.table)

    with decoded_pictures(reference, case.family) as pictures:
        sessions = reference, candidate, case.checkpoint, case.scenario
        grafted = local_errors(*sessions, reverse=True, feeding=taken)
    others = ((key, error) for key, error in grafted.errors.items() if not taken(key))
    left = next((f"{key}: {error.rel_l2:.2e}" for key, error in others if error.rel_l2 > bounds.of(key).rel_l2), None)
    return MendedRun(difference=difference(pictures, wrong), left=left, refused=[])


def mended_pictures(case: Case, exchanges: Sequence[Exchange], right: Sequence[Pixels]) -> PicturesRun:
    """The candidate with the reference's parts, against the reference's decoded pictures."""
    return _exchanged_pictures(case, (case.candidate.adapter, case.spare), exchanges, right)


def spoilt_pictures(case: Case, exchanges: Sequence[Exchange], wrong: Sequence[Pixels]) -> PicturesRun:
    """The reference with the candidate's parts, against the candidate's decoded pictures."""
    return _exchanged_pictures(case, (case.reference.adapter, case.candidate.adapter), exchanges, wrong)


def _exchanged_pictures(
    case: Case, sides: tuple[Adapter, Adapter], exchanges: Sequence[Exchange], expected: Sequence[Pixels]
) -> PicturesRun:
    with (
        Exchanged(*sides, exchanges, case.checkpoint) as mixed,
        decoded_pictures(mixed, case.family) as pictures,
    ):
        run(mixed, case.scenario, case.checkpoint)
    return PicturesRun(difference=difference(pictures, expected), refused=sorted(mixed.refused))


def gain_run(case: Case, site: str) -> GainRun:
    """How the reference amplifies an error at `site`."""
    return GainRun(gain=gain(case.reference.adapter, case.spare, case.checkpoint, case.scenario, site))
