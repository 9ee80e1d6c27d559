"""Cross-decoding: the decoder of either side, run on the final latents of the other.

What is decoded is put in place of the latents of the shortest session that its family knows, whatever the latents were
made by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import PictureMetrics, Pixels, picture_metrics
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.explain.investigation.latents import is_latent
from waypoint_parity.harness.explain.investigation.result import CrossedPicture
from waypoint_parity.harness.judge.table import finite
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.record.writer import pictures_shown
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.family import Decoding
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps

NO_DECODING = "latents of this family cannot be decoded by themselves"
_NAMES = "reference", "candidate"
# A latent that comes out of a file is the same number; a device may still round differently from run to run.
_MOST_LEVELS = 1


@dataclass(frozen=True)
class Recorded:
    """What a session of one side showed: the final latent of every unit, and pictures [H,W,3] uint8."""

    latents: Mapping[int, Tensor]
    pictures: Mapping[PictureAt, Pixels]


@dataclass(frozen=True)
class _Decoded:
    """What a decoder made of latents: pictures, and what those were made of, by unit, where that is shown."""

    pictures: dict[PictureAt, Pixels] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)


def cross_decode(
    reference: Adapter,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    recorded: tuple[Recorded, Recorded],
    bounds: Mapping[PictureAt, float | None],
) -> list[CrossedPicture] | str:
    """Decode the latents that the reference and the candidate `recorded` in a session of `scenario`, each by the other.

    Every picture that both recorded, `bounds` the most that is noise in it; or why that says nothing: a side cannot be
    given a latent, or does not even make its own pictures of its own latents again.
    """
    decoding, sides = checkpoint.family.decoding, (reference, candidate)
    if decoding is None:
        return NO_DECODING
    shared = frozenset.intersection(
        *(frozenset(at for at in side.pictures if at.unit in side.latents) for side in recorded)
    )
    if not shared:
        return f"there is no {checkpoint.family.unit_name} of which both sides kept the final latent and the picture"
    if reason := _unpatchable(sides, decoding):
        return reason
    pictures = sorted(shared)
    session = _Session(
        checkpoint, decoding, *decoding.alone(scenario, checkpoint.geometry, list({at.unit: at for at in pictures}))
    )
    own = [session.decoded(adapter, side.latents) for adapter, side in zip(sides, recorded, strict=True)]
    for name, side, made in zip(_NAMES, recorded, own, strict=True):
        if reason := _unlike_own(name, side, pictures, made):
            return reason
    crossed = session.decoded(reference, recorded[1].latents), session.decoded(candidate, recorded[0].latents)
    return [
        CrossedPicture(
            at=at,
            reference_decoder=_held(at, crossed[0], recorded[0], bounds.get(at)),
            candidate_decoder=_held(at, crossed[1], recorded[0], bounds.get(at)),
            output=_distance(crossed[1].outputs.get(at.unit), own[0].outputs.get(at.unit)),
        )
        for at in pictures
    ]


def _unpatchable(sides: Sequence[Adapter], decoding: Decoding) -> str | None:
    """Which of the two cannot be given a latent, if one cannot."""
    for name, adapter in zip(_NAMES, sides, strict=True):
        site = adapter.sites().get(decoding.latent)
        if site is None or not site.is_patchable:
            return f"the {name} cannot be given a latent: {decoding.latent} is no site of it that can be patched"
    return None


@dataclass(frozen=True)
class _Session:
    """The session that the latents of `units` are decoded in."""

    checkpoint: Checkpoint
    decoding: Decoding
    scenario: Scenario
    units: Sequence[int]

    def decoded(self, adapter: Adapter, latents: Mapping[int, Tensor]) -> _Decoded:
        """What `adapter` makes of `latents`."""
        made, family, decoding = _Decoded(), self.checkpoint.family, self.decoding

        def decode(seen: Observation) -> Tensor | None:
            # The units of this session are numbered anew.
            unit = self.units[seen.key.unit]
            if seen.key.site == decoding.picture:
                made.pictures.update(pictures_shown(seen.key._replace(unit=unit), seen.tensor))
            elif seen.key.site in decoding.outputs:
                made.outputs[unit] = seen.tensor.detach().cpu().clone()
            return latents.get(unit) if seen.key.site == decoding.latent and is_latent(seen.key, family) else None

        names = decoding.latent, *decoding.outputs, decoding.picture
        sites = {name: site for name, site in adapter.sites().items() if name in names}
        with Taps(sites, decode) as taps:
            run(adapter, self.scenario, self.checkpoint, taps)
        return made


def _unlike_own(name: str, recorded: Recorded, pictures: Sequence[PictureAt], made: _Decoded) -> str | None:
    """Why the pictures that a side made of its own latents are not those that it `recorded`, if they are not."""
    if absent := [at for at in pictures if at not in made.pictures]:
        return f"the {name} does not show picture {absent[0]} where its latent is decoded by itself"
    for at in pictures:
        levels = int(np.abs(made.pictures[at].astype(np.int16) - recorded.pictures[at]).max())
        if levels > _MOST_LEVELS:
            return (
                f"the {name} does not make its own picture of its own latent again (picture {at}: up to {levels} "
                "levels): what it decodes depends on more of the session than the latent"
            )
    return None


def _held(at: PictureAt, made: _Decoded, reference: Recorded, bound: float | None) -> PictureMetrics:
    """A picture, held against the one that the reference recorded."""
    return msgspec.structs.replace(picture_metrics(at, made.pictures[at], reference.pictures[at]), bound=bound)


def _distance(actual: Tensor | None, expected: Tensor | None) -> float | None:
    return None if actual is None or expected is None else finite(tensor_error(actual, expected).rel_l2)
