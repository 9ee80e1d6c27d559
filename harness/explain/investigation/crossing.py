"""Cross-decoding: the decoder of either side, run on the final latents of the other.

What is decoded is put in place of the latent after the only step of a session under the shortest schedule, so that one
denoise pass a frame is enough, whatever the latents were made by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import FrameMetrics, Pixels, frame_metrics
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.explain.investigation.result import CrossedFrame
from waypoint_parity.harness.families.waypoint.variant import SCHEDULES
from waypoint_parity.harness.judge.tally import finite
from waypoint_parity.harness.run.adapter import Adapter
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Patcher, is_patchable

_NAMES = "reference", "candidate"
# What the decoder gives, before it is made a picture.
OUTPUT = "decoder.conv_out"
_LATENT, _FRAME = "latent", "frame"
# A latent that comes out of a file is the same number; a device may still round otherwise from run to run.
_MOST_LEVELS = 1


@dataclass(frozen=True)
class Recorded:
    """What a session of one side showed, by frame: final latents [1,1,C,h*ph,w*pw] and pictures [360,640,3] uint8."""

    latents: Mapping[int, Tensor]
    frames: Mapping[int, Pixels]


class _Decoded(NamedTuple):
    """What a decoder made of a latent: the picture, and what the picture was made of, where that is shown."""

    frame: Pixels
    output: Tensor | None


def cross_decode(
    reference: Adapter,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    recorded: tuple[Recorded, Recorded],
    bounds: Mapping[int, float | None],
) -> list[CrossedFrame] | str:
    """Decode the latents that the reference and the candidate `recorded` in a session of `scenario`, each by the other.

    Every frame that both recorded, `bounds` the most that is noise in it; or why that says nothing: a side cannot be
    given a latent, or does not even make its own pictures of its own latents again.
    """
    sides = reference, candidate
    frames = sorted(
        frozenset.intersection(*(frozenset(kept) for side in recorded for kept in (side.latents, side.frames)))
    )
    if not frames:
        return "there is no frame of which both sides kept the final latent and the picture"
    if reason := _unpatchable(sides):
        return reason
    session = _Session(checkpoint, _shortest(scenario, frames))
    latents = [[side.latents[frame] for frame in frames] for side in recorded]
    own = [session.decoded(adapter, given) for adapter, given in zip(sides, latents, strict=True)]
    for name, side, made in zip(_NAMES, recorded, own, strict=True):
        if reason := _unlike_own(name, side, frames, made):
            return reason
    crossed = session.decoded(reference, latents[1]), session.decoded(candidate, latents[0])
    return [
        CrossedFrame(
            frame=frame,
            reference_decoder=_held(frame, crossed[0][at], recorded[0], bounds.get(frame)),
            candidate_decoder=_held(frame, crossed[1][at], recorded[0], bounds.get(frame)),
            output=_distance(crossed[1][at].output, own[0][at].output),
        )
        for at, frame in enumerate(frames)
    ]


def _unpatchable(sides: Sequence[Adapter]) -> str | None:
    """Which of the two cannot be given a latent, if one cannot."""
    for name, adapter in zip(_NAMES, sides, strict=True):
        site = adapter.sites().get(_LATENT)
        if site is None or not is_patchable(site):
            return f"the {name} cannot be given a latent: {_LATENT} is no site of it that can be patched"
    return None


@dataclass(frozen=True)
class _Session:
    """The session that latents are decoded in."""

    checkpoint: Checkpoint
    scenario: Scenario

    def decoded(self, adapter: Adapter, latents: Sequence[Tensor]) -> list[_Decoded]:
        """What `adapter` makes of `latents`, one a frame."""
        frames: list[Pixels] = []
        outputs: dict[int, Tensor] = {}

        def decode(key: Key, value: Tensor) -> Tensor | None:
            if key.site == _FRAME:
                frames.append(value.cpu().numpy().copy())
            elif key.site == OUTPUT:
                outputs[key.frame] = value.detach().cpu().clone()
            return latents[key.frame] if key.site == _LATENT and key.phase == "denoise" else None

        sites = {name: site for name, site in adapter.sites().items() if name in (_LATENT, OUTPUT, _FRAME)}
        with Patcher(sites, decode) as patcher:
            run(adapter, self.scenario, self.checkpoint.transformer, patcher)
        return [_Decoded(picture, outputs.get(frame)) for frame, picture in enumerate(frames)]


def _shortest(scenario: Scenario, frames: Sequence[int]) -> Scenario:
    """The inputs of `frames` alone, each one denoise step long, without the image that came before."""
    given = {name: getattr(scenario, name)[list(frames)] for name in ("noise", "button", "mouse", "scroll")}
    return replace(scenario, sigmas=torch.tensor(SCHEDULES["single-step"]), image=None, **given)


def _unlike_own(name: str, recorded: Recorded, frames: Sequence[int], made: Sequence[_Decoded]) -> str | None:
    """Why the pictures that a side made of its own latents are not those that it `recorded`, if they are not."""
    if len(made) != len(frames):
        return f"the {name} shows {len(made)} pictures of {len(frames)} latents"
    for frame, decoded in zip(frames, made, strict=True):
        levels = int(np.abs(decoded.frame.astype(np.int16) - recorded.frames[frame]).max())
        if levels > _MOST_LEVELS:
            return (
                f"the {name} does not make its own picture of its own latent again (frame {frame}: up to {levels} "
                "levels): what it decodes depends on more of the session than the latent"
            )
    return None


def _held(frame: int, decoded: _Decoded, reference: Recorded, bound: float | None) -> FrameMetrics:
    """A picture, held against the one that the reference recorded."""
    return msgspec.structs.replace(frame_metrics(frame, decoded.frame, reference.frames[frame]), bound=bound)


def _distance(actual: Tensor | None, expected: Tensor | None) -> float | None:
    return None if actual is None or expected is None else finite(tensor_error(actual, expected).rel_l2)
