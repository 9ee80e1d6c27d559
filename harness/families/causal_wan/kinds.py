"""Kinds of fault that ports of causal models have, by the part that they show in: text beside a measurement."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from waypoint_parity.harness.families.causal_wan.config import CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.sites import CLEAN
from waypoint_parity.harness.run.family import FaultKind
from waypoint_parity.harness.run.keys import Key

if TYPE_CHECKING:
    from waypoint_parity.harness.run.scenario import Scenario

_FIRST, _LATER, _FULL = "first chunk", "later chunk", "once the window is full"

KINDS = (
    FaultKind(
        ("input.noise",),
        "noise of another stride, generator or order",
        "that a draw is laid out as [N,C,h,w], and that each step after the first has one of its own",
    ),
    FaultKind(
        ("input.schedule",),
        "the clean pass at a timestep of the steps before",
        "that the pass which leaves the clean latents in the cache has the context timestep, 0 in the published models",
        extent=("clean pass only",),
    ),
    FaultKind(
        ("input.schedule",),
        "steps not warped by the shift, or another shift",
        "the steps 1000, 750, 500, 250 are indices into the shifted schedule: 1000, 937.5, 833.3, 625",
    ),
    FaultKind(
        ("renoising",),
        "another mix of estimate and noise",
        "(1 - sigma) * estimate + sigma * noise, with the sigma of the step that begins",
    ),
    FaultKind(
        ("clean pass",),
        "the clean pass runs on noisy latents",
        "that it is given the last estimate, and not what the last step began with",
    ),
    FaultKind(
        ("rotation",),
        "the chunk is rotated as if it stood at another place",
        "the first latent of the chunk in the rotation: it counts from the session's beginning",
        onset=(_LATER,),
    ),
    FaultKind(
        ("rotation",),
        "axes of the rotation exchanged, or pairs laid out otherwise",
        "frequencies in the order time, height, width; consecutive pairs; width of each axis",
        onset=(_FIRST,),
    ),
    FaultKind(
        ("cache",),
        "a wrong latent is evicted, or those that stay are moved wrongly",
        "that the sink stays, and the latents behind it move by as many as come in",
        onset=(_FULL,),
    ),
    FaultKind(
        ("cache",),
        "steps of a chunk are appended, where each overwrites the one before",
        "that a chunk evicts once, and that its end in the cache moves once",
        onset=(_FIRST, _LATER),
    ),
    FaultKind(
        ("text cache",),
        "keys and values of another session's prompt",
        "that the cross-attention's cache begins anew with every session",
        onset=(_FIRST,),
    ),
    FaultKind(
        ("self-attention",),
        "another window or scale of the attention",
        "how many keys are attended to, and the scale of their products",
    ),
    FaultKind(
        ("query and key norm", "cross-attention"),
        "queries and keys normed head by head",
        "that the mean square is taken over all heads",
    ),
    FaultKind(
        ("time embedding",),
        "phases computed in fp32, where the official code has fp64",
        "the dtype of frequencies and phases",
        extent=("rounding-sized",),
    ),
    FaultKind(
        ("feed-forward",),
        "exact GELU instead of its tanh form",
        "the activation of the feed-forward",
        norm="kept",
    ),
)


def words(first: Key, faults: Collection[Key], geometry: CausalWanGeometry, scenario: "Scenario") -> list[str]:
    """In which chunk a fault begins, whether by then the window is full, and whether only clean passes have it."""
    latents = scenario["noise"].shape[3]
    evicts = geometry.slots // latents
    found = [_LATER if first.unit else _FIRST]
    found += [_FULL] if first.unit >= evicts else []
    found += ["clean pass only"] if {key.phase for key in faults} == {CLEAN} else []
    return found
