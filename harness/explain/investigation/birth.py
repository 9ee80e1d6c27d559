"""The birth: where in the pipeline the difference of two sessions' pictures was made.

Cross-decoding decides between the latents and the decoder, because it is an experiment: one of the two is exchanged and
the picture is looked at again. What lies before a wrong latent is told by blame, or else by the first divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from waypoint_parity.harness.compare.pictures import FrameMetrics
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.investigation.crossing import OUTPUT
from waypoint_parity.harness.explain.investigation.origin import Origin, origins
from waypoint_parity.harness.explain.investigation.result import Birth, Birthplace, CrossedFrame, Picture
from waypoint_parity.harness.judge.comparison import Comparison, Verdict

_DECODING: tuple[Birthplace, ...] = ("decoder", "after the decoder")


@dataclass(frozen=True)
class _Half:
    """The latents, or the decoder: whether they make the pictures differ, by how many levels, and what says so."""

    wrong: bool
    mean_abs: float
    because: str


def birth(
    comparison: Comparison, pictures: Sequence[Picture], crossing: Sequence[CrossedFrame], blame: Blame | None
) -> Birth | None:
    """Where the pictures of two sessions part; None where parity holds.

    `crossing` is empty where nothing was decoded across; `blame` is that of the same two sessions.
    """
    if comparison.verdict.passes:
        return None
    if comparison.verdict is Verdict.INCOMPARABLE:
        return Birth(place="input", because=[f"the two were not given the same: {comparison.reason}"])
    relied_on, doubts = blame, list[str]()
    if blame is not None and blame.contradictions:
        relied_on, doubts = None, [f"blame contradicts itself: {doubt}" for doubt in blame.contradictions]
    found = origins(comparison, relied_on)
    differing = [picture.metrics for picture in pictures if not picture.metrics.within_noise]
    if not differing:
        seen = "the pictures differ by no more than noise" if pictures else "no pictures were compared"
        return _named(found, [*doubts, seen])
    worst = max(differing, key=lambda metrics: metrics.mean_abs)
    crossed = next((one for one in crossing if one.frame == worst.frame), None)
    if crossed is None:
        return _uncrossed(comparison, found, doubts)
    return _crossed(comparison, crossed, worst, found, doubts)


def _crossed(
    comparison: Comparison, crossed: CrossedFrame, worst: FrameMetrics, found: Sequence[Origin], doubts: Sequence[str]
) -> Birth:
    """By what became of the worst frame when it was decoded across."""
    latents, decoder = _latents(crossed, worst), _decoder(crossed)
    if not latents.wrong and not decoder.wrong:
        conflict = f"yet the candidate's picture differs by {_levels(worst)}: the two do not account for it"
        return Birth(place="unknown", because=[latents.because, decoder.because, conflict, *doubts])
    if latents.wrong and (not decoder.wrong or latents.mean_abs >= decoder.mean_abs):
        before = [origin for origin in found if origin.place not in _DECODING]
        return _named(before, doubts, first=[latents.because, decoder.because])
    place, because = _within_decoding(comparison, crossed)
    return Birth(place=place, because=[decoder.because, because, latents.because, *doubts])


def _latents(crossed: CrossedFrame, worst: FrameMetrics) -> _Half:
    """The candidate's latents, by what the reference's decoder makes of them."""
    made, where = crossed.reference_decoder, f"frame {crossed.frame}: mean |d|"
    if made.within_noise:
        because = "the reference's decoder makes its own picture, within noise, of the candidate's latent too "
        return _Half(False, made.mean_abs, f"{because}({where} {_levels(made)}): the latents are right")
    because = f"the reference's decoder makes the candidate's picture of the candidate's latent ({where} "
    because += f"{made.mean_abs:.3g} of {_levels(worst)})"
    return _Half(True, made.mean_abs, f"{because}: the latents are wrong")


def _decoder(crossed: CrossedFrame) -> _Half:
    """The candidate's decoder, by what it makes of the reference's latents."""
    made = crossed.candidate_decoder
    because = f"(frame {crossed.frame}: mean |d| {_levels(made)})"
    if made.within_noise:
        because = f"the candidate's decoder on the reference's latent is within noise {because}"
        return _Half(False, made.mean_abs, f"{because}: its decoding is right")
    because = f"the candidate's decoder makes another picture of the reference's latent {because}"
    return _Half(True, made.mean_abs, f"{because}: its decoding is wrong")


def _within_decoding(comparison: Comparison, crossed: CrossedFrame) -> Origin:
    """Whether the decoder is wrong, or what makes a picture of what it gives."""
    tolerance = next((rung.tolerance for rung in comparison.sites if rung.site == OUTPUT), None)
    if crossed.output is None or tolerance is None:
        return Origin("decoder", f"{OUTPUT} is not shown, so it may also be what makes a picture of it")
    size = f"{OUTPUT} for the reference's latent is off by a relative L2 of {crossed.output:.2e}"
    if crossed.output > tolerance:
        return Origin("decoder", f"{size}, tolerance {tolerance:.1e}")
    return Origin("after the decoder", f"{size}, tolerance {tolerance:.1e}: it becomes wrong as it is made a picture")


def _uncrossed(comparison: Comparison, found: Sequence[Origin], doubts: Sequence[str]) -> Birth:
    """By the final latents and the sites of the decoder, where nothing was decoded across."""
    off = next((at for at in comparison.growth if at.frame == comparison.horizon), None)
    if off is not None:
        size = "not finite" if off.rel_l2 is None else f"off by a relative L2 of {off.rel_l2:.2e}"
        latents = f"the final latent of frame {off.frame} is {size}, tolerance {off.tolerance:.1e}"
        before = [origin for origin in found if origin.place not in _DECODING]
        # A decoder that is wrong besides may have the larger part in it, which only decoding across would tell.
        return _named(before if len(before) == len(found) else [], [latents, *doubts])
    if not comparison.growth:
        return _named(found, doubts)
    latents = "the final latents are within noise in every frame"
    output = next((rung for rung in comparison.sites if rung.site == OUTPUT), None)
    if output is None:
        return _named([origin for origin in found if origin.place in _DECODING], [latents, *doubts])
    size = f"{OUTPUT} is off by a relative L2 of {output.distance:.2e}, tolerance {output.tolerance:.1e}"
    return Birth(place="decoder" if output.failed else "after the decoder", because=[latents, size, *doubts])


def _named(found: Sequence[Origin], because: Sequence[str], *, first: Sequence[str] = ()) -> Birth:
    """By the likeliest origin; unknown where there is none."""
    if not found:
        return Birth(place="unknown", because=[*first, "nothing that was compared tells where it comes from", *because])
    return Birth(place=found[0].place, because=[*first, found[0].because, *because])


def _levels(metrics: FrameMetrics) -> str:
    return f"{metrics.mean_abs:.3g} levels"
