"""Implementations in steady state: their rings full, without generating the frames that would fill them."""

from collections.abc import Callable
from time import perf_counter

import torch

from tests.bench.geometry import inputs_of
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.reference.eager.adapter import EagerAdapter


def candidate_at(checkpoint: Checkpoint, numerics: Numerics, clock: int) -> CandidateAdapter:
    """The candidate in a session whose next frame is `clock`, as if all before it had been generated."""
    adapter = CandidateAdapter(checkpoint, numerics)
    _begin(adapter, checkpoint)
    for cache in adapter.engine.rings:
        cache.ring.normal_()
    adapter.running.seek(clock)
    return adapter


def eager_at(checkpoint: Checkpoint, numerics: Numerics, clock: int) -> EagerAdapter:
    """The reference in a session whose next frame is `clock`, as if all before it had been generated."""
    adapter = EagerAdapter(checkpoint, numerics)
    _begin(adapter, checkpoint)
    for cache in adapter._session.kv_cache.rings():
        used = cache.slots * cache.tokens
        cache.ring[..., :used, :].normal_()
        cache.ring_written[:used] = True
    adapter._session.clock = clock
    return adapter


def _begin(adapter: FrameByFrame, checkpoint: Checkpoint) -> None:
    prompt, _, _ = inputs_of(checkpoint.geometry.transformer)
    for _ in adapter.start(prompt, torch.tensor(checkpoint.geometry.transformer.scheduler_sigmas)):
        pass


class DenoisePasses:
    """Calling it runs the next denoise pass of a frame that is begun over and over, never finished."""

    def __init__(self, adapter: FrameByFrame, checkpoint: Checkpoint) -> None:
        self._adapter = adapter
        _, self._noise, self._controls = inputs_of(checkpoint.geometry.transformer)
        self._begin_frame()

    def __call__(self) -> None:
        if next(self._frame).phase == "cache":
            self._begin_frame()

    def _begin_frame(self) -> None:
        self._frame = self._adapter.generate(self._noise, self._controls)
        next(self._frame)  # announces the first pass


def whole_frame(
    adapter: FrameByFrame, checkpoint: Checkpoint, announce: Callable[[int, Pass], None] = lambda frame, at: None
) -> None:
    """The denoise passes and the cache pass of the next frame. `announce` is told of each pass before it runs."""
    _, noise, controls = inputs_of(checkpoint.geometry.transformer)
    for at in adapter.generate(noise, controls):
        announce(0, at)
        if at.phase == "decode":
            return


def steady_clock(checkpoint: Checkpoint) -> int:
    """A frame past every ring's capacity that, as most frames, a dilated ring does not keep."""
    return checkpoint.geometry.transformer.global_window + 1


def seconds(work: Callable[[], None]) -> float:
    """How long `work` takes."""
    started = perf_counter()
    work()
    return perf_counter() - started
