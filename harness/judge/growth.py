"""Growth: how far the final latent of every frame is off, frame after frame."""

import math

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.judge.comparison import FrameGrowth
from waypoint_parity.harness.judge.judgement import Bounds
from waypoint_parity.harness.run.keys import Key, Phase


def shows_growth(phase: Phase, site: str) -> bool:
    """Whether a site shows the latent of a frame that is being generated."""
    return (phase, site) == ("denoise", "latent")


class Growth:
    """Takes the errors of a run, in any order, and keeps those of every frame's last latent."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # By frame: the latest of its latents so far, and the error of that one.
        self._latents: dict[int, tuple[Key, float]] = {}

    def add(self, key: Key, error: Error) -> None:
        """Take the error at `key`: a later denoise step's latent takes the place of an earlier one."""
        if shows_growth(key.phase, key.site):
            self._keep(key, error.rel_l2)

    def merge(self, other: "Growth") -> None:
        """Take what another part of the run showed."""
        for key, rel_l2 in other._latents.values():
            self._keep(key, rel_l2)

    @property
    def frames(self) -> list[FrameGrowth]:
        """Every frame's, first frame first."""
        return [self._at(*self._latents[frame]) for frame in sorted(self._latents)]

    def _at(self, key: Key, rel_l2: float) -> FrameGrowth:
        distance = rel_l2 if math.isfinite(rel_l2) else None
        return FrameGrowth(frame=key.frame, rel_l2=distance, tolerance=self._bounds.of(key).rel_l2)

    def _keep(self, key: Key, rel_l2: float) -> None:
        known = self._latents.get(key.frame)
        if known is None or key > known[0]:
            self._latents[key.frame] = key, rel_l2
