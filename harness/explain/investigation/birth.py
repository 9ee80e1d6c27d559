"""The birth: where in the pipeline the difference of two sessions' pictures was made.

Cross-decoding decides between the latents and the decoder, because it is an experiment: one of the two is exchanged and
the picture is looked at again. What lies before a wrong latent is told by blame, or else by the first divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.investigation.origin import Origin, origins
from waypoint_parity.harness.explain.investigation.result import Birth, Birthplace, CrossedPicture, Picture
from waypoint_parity.harness.judge.comparison import Comparison, Verdict, WorstAtSite
from waypoint_parity.harness.run.family import Family

_DECODING: tuple[Birthplace, ...] = ("decoder", "after the decoder")


@dataclass(frozen=True)
class _Half:
    """The latents, or the decoder: whether they make the pictures differ, by how many levels, and what says so."""

    wrong: bool
    mean_abs: float
    because: str


def birth(
    comparison: Comparison,
    pictures: Sequence[Picture],
    crossing: Sequence[CrossedPicture],
    blame: Blame | None,
    family: Family,
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
    found = origins(comparison, relied_on, family)
    differing = [picture.metrics for picture in pictures if not picture.metrics.within_noise]
    if not differing:
        seen = "the pictures differ by no more than noise" if pictures else "no pictures were compared"
        return _named(found, [*doubts, seen])
    worst = max(differing, key=lambda metrics: metrics.mean_abs)
    crossed = next((one for one in crossing if one.at == worst.at), None)
    if crossed is None:
        return _uncrossed(comparison, family, found, doubts)
    return _crossed(_output_of(comparison, family), crossed, worst, found, doubts)


def _output_of(comparison: Comparison, family: Family) -> WorstAtSite | None:
    """How far what the decoder gives was off, before it is made a picture, where that is shown."""
    decoding = family.decoding
    return next((rung for rung in comparison.sites if decoding is not None and rung.site in decoding.outputs), None)


def _crossed(
    output: WorstAtSite | None,
    crossed: CrossedPicture,
    worst: PictureMetrics,
    found: Sequence[Origin],
    doubts: Sequence[str],
) -> Birth:
    """By what became of the worst picture when it was decoded across."""
    latents, decoder = _latents(crossed, worst), _decoder(crossed)
    if not latents.wrong and not decoder.wrong:
        conflict = f"yet the candidate's picture differs by {_levels(worst)}: the two do not account for it"
        return Birth(place="unknown", because=[latents.because, decoder.because, conflict, *doubts])
    if latents.wrong and (not decoder.wrong or latents.mean_abs >= decoder.mean_abs):
        before = [origin for origin in found if origin.place not in _DECODING]
        return _named(before, doubts, first=[latents.because, decoder.because])
    place, because = _within_decoding(output, crossed)
    return Birth(place=place, because=[decoder.because, because, latents.because, *doubts])


def _latents(crossed: CrossedPicture, worst: PictureMetrics) -> _Half:
    """The candidate's latents, by what the reference's decoder makes of them."""
    made, where = crossed.reference_decoder, f"picture {crossed.at}: mean |d|"
    if made.within_noise:
        because = "the reference's decoder makes its own picture, within noise, of the candidate's latent too "
        return _Half(False, made.mean_abs, f"{because}({where} {_levels(made)}): the latents are right")
    because = f"the reference's decoder makes the candidate's picture of the candidate's latent ({where} "
    because += f"{made.mean_abs:.3g} of {_levels(worst)})"
    return _Half(True, made.mean_abs, f"{because}: the latents are wrong")


def _decoder(crossed: CrossedPicture) -> _Half:
    """The candidate's decoder, by what it makes of the reference's latents."""
    made = crossed.candidate_decoder
    because = f"(picture {crossed.at}: mean |d| {_levels(made)})"
    if made.within_noise:
        because = f"the candidate's decoder on the reference's latent is within noise {because}"
        return _Half(False, made.mean_abs, f"{because}: its decoding is right")
    because = f"the candidate's decoder makes another picture of the reference's latent {because}"
    return _Half(True, made.mean_abs, f"{because}: its decoding is wrong")


def _within_decoding(output: WorstAtSite | None, crossed: CrossedPicture) -> Origin:
    """Whether the decoder is wrong, or what makes a picture of what it gives."""
    if crossed.output is None or output is None:
        return Origin("decoder", "what the decoder gives is not shown, so it may also be what makes a picture of it")
    size = f"{output.site} for the reference's latent is off by a relative L2 of {crossed.output:.2e}"
    judged = f"{size}, tolerance {output.tolerance:.1e}"
    if crossed.output > output.tolerance:
        return Origin("decoder", judged)
    return Origin("after the decoder", f"{judged}: it becomes wrong as it is made a picture")


def _uncrossed(comparison: Comparison, family: Family, found: Sequence[Origin], doubts: Sequence[str]) -> Birth:
    """By the final latents and the sites of the decoder, where nothing was decoded across."""
    off = next((at for at in comparison.growth if at.unit == comparison.horizon), None)
    if off is not None:
        size = "not finite" if off.rel_l2 is None else f"off by a relative L2 of {off.rel_l2:.2e}"
        latents = f"the final latent of {family.unit_name} {off.unit} is {size}, tolerance {off.tolerance:.1e}"
        before = [origin for origin in found if origin.place not in _DECODING]
        # A decoder that is wrong besides may have the larger part in it, which only decoding across would tell.
        return _named(before if len(before) == len(found) else [], [latents, *doubts])
    if not comparison.growth:
        return _named(found, doubts)
    latents = f"the final latents are within noise in every {family.unit_name}"
    output = _output_of(comparison, family)
    if output is None:
        return _named([origin for origin in found if origin.place in _DECODING], [latents, *doubts])
    size = f"{output.site} is off by a relative L2 of {output.distance:.2e}, tolerance {output.tolerance:.1e}"
    return Birth(place="decoder" if output.failed else "after the decoder", because=[latents, size, *doubts])


def _named(found: Sequence[Origin], because: Sequence[str], *, first: Sequence[str] = ()) -> Birth:
    """By the likeliest origin; unknown where there is none."""
    if not found:
        return Birth(place="unknown", because=[*first, "nothing that was compared tells where it comes from", *because])
    return Birth(place=found[0].place, because=[*first, found[0].because, *because])


def _levels(metrics: PictureMetrics) -> str:
    return f"{metrics.mean_abs:.3g} levels"
