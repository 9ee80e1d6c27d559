"""Kinds of fault that ports of HY-WorldPlay have, by the part that they show in: text beside a measurement."""

from waypoint_parity.harness.families.hy_worldplay.sites import DECODE
from waypoint_parity.harness.run.family import FaultKind
from waypoint_parity.harness.run.keys import Key

KINDS = (
    FaultKind(
        ("input.noise",),
        "noise of another stride: a draw for each chunk, where the vendor slices one",
        "that one draw [C,F,h,w] of the whole session is cut along F",
    ),
    FaultKind(
        ("chunk length",),
        "another number of latents in a chunk",
        "that a chunk makes 4 latents, the first one too",
    ),
    FaultKind(
        ("memory selection",),
        "no memory before the window is full",
        "that chunks before latent 16 have all of the history in their memory",
        onset=("second chunk",),
    ),
    FaultKind(
        ("memory selection",),
        "another choice of latents",
        "12 recent latents and the 4 whose cameras see most alike; the points by which that is told",
        onset=("later chunk",),
    ),
    FaultKind(
        ("memory timestep",),
        "memory modulated with the noisy timestep",
        "that the pass over the memory has timestep 14, whatever the level of the chunk in work",
    ),
    FaultKind(
        ("memory keys",),
        "keys of the memory rotated to other places, or turned by other cameras",
        "that place 0 is the first latent that the memory holds, and that each has its own camera",
    ),
    FaultKind(
        ("velocity",),
        "guidance on a distilled checkpoint",
        "that a step evaluates the prompt alone: guidance is distilled into the weights",
        norm="changed",
    ),
    FaultKind(
        ("camera attention",),
        "camera matrices transposed, inverted, or of another latent",
        "world to camera; intrinsics normalised; one matrix for the 880 tokens of a latent",
    ),
    FaultKind(
        ("action embedding",),
        "the action added behind the time projection",
        "that the embedded class is added to the embedded timestep, before the projection",
    ),
    FaultKind(
        ("decoder",),
        "the feature cache cleared at every chunk",
        "that the decoder's caches are cleared at the first chunk only",
        onset=("second chunk", "later chunk"),
    ),
    FaultKind(
        ("picture",),
        "frames scaled by 255 twice",
        "whether what writes the frames takes numbers to 1 or to 255",
    ),
)


def words(first: Key) -> list[str]:
    """Where a fault begins."""
    found = [("first chunk", "second chunk", "later chunk")[min(first.unit, 2)]]
    if first.phase == DECODE:
        found.append("later latent" if first.step else "first latent")
    return found
