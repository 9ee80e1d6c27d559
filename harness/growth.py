"""Growth: how far the final latent of every frame is off, frame after frame."""

import math

from harness.comparison import FrameGrowth
from harness.distance import Error
from harness.judgement import Bounds
from harness.keys import Key


class Growth:
    """Takes the errors of a run in execution order and keeps those of every frame's last latent."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._frames: dict[int, FrameGrowth] = {}

    def add(self, key: Key, error: Error) -> None:
        """Take the error at `key`: each denoise step's latent takes the place of the one before."""
        if (key.site, key.phase) == ("latent", "denoise"):
            rel_l2 = error.rel_l2 if math.isfinite(error.rel_l2) else None
            self._frames[key.frame] = FrameGrowth(frame=key.frame, rel_l2=rel_l2, tolerance=self._bounds.of(key).rel_l2)

    @property
    def frames(self) -> list[FrameGrowth]:
        """Every frame's, first frame first."""
        return [self._frames[frame] for frame in sorted(self._frames)]
