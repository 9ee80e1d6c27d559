"""The origin of a divergence: the parts that may have made it, each with its place in the pipeline and what says so."""

from typing import NamedTuple

from waypoint_parity.harness.explain.blame.parts import Part, part_named, part_of
from waypoint_parity.harness.explain.blame.result import Blame, Cause
from waypoint_parity.harness.explain.investigation.result import Birthplace
from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, Verdict

_PLACES: dict[str, Birthplace] = {
    "input": "input",
    "cache": "cache",
    "sampler": "sampler",
    **dict.fromkeys(("conditioning", "control", "prompt", "attention", "rope", "mlp", "head"), "transformer"),
}
# The seed image and what is encoded of it are what a session is given.
_CODED: dict[str, Birthplace] = {
    "encoder": "input",
    "image latent": "input",
    "decoder": "decoder",
    "picture": "after the decoder",
}


class Origin(NamedTuple):
    """A place where a divergence may come from, and the sentence that says so."""

    place: Birthplace
    because: str


def origins(comparison: Comparison, blame: Blame | None) -> list[Origin]:
    """Where the divergence may come from, the likeliest first: blame's causes, else the first divergence."""
    if blame is not None and blame.causes:
        return [Origin(_place(part_named(cause.part)), _blamed(cause)) for cause in blame.causes]
    first = next((failure for failure in comparison.failures if failure.verdict is Verdict.DIVERGED), comparison.first)
    return [_of_first(first, comparison)] if first is not None else []


def _of_first(first: SiteResult, comparison: Comparison) -> Origin:
    part = part_of(first.key)
    if part.name == "attention" and _agreed_before(first, comparison):
        return Origin(
            "cache",
            "the attention was right as long as there was no history, so it is the history that is wrong; the first "
            f"divergence is {first}",
        )
    return Origin(_place(part), f"the first divergence is in the part {part.name}: {first}")


def _agreed_before(first: SiteResult, comparison: Comparison) -> bool:
    """Whether the attention was right in a pass before, when there was no history to read."""
    return first.frame > 0 or (first.phase != "image" and any(rung.phase == "image" for rung in comparison.sites))


def _place(part: Part) -> Birthplace:
    return _CODED[part.name] if part.family == "autoencoder" else _PLACES[part.family]


def _blamed(cause: Cause) -> str:
    gone = None if cause.necessity is None else cause.necessity.mean_abs
    mended = "" if gone is None else f"; with the reference's, {gone:.0%} of the difference of the last picture is gone"
    return f"blame names {cause.name}, wrong by itself at {cause.first}{mended}"
