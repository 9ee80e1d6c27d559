"""Growth: how far the final latent of every unit is off, unit after unit."""

import math

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.judge.comparison import LatentError
from waypoint_parity.harness.judge.judgement import Bounds
from waypoint_parity.harness.run.keys import Key


class Growth:
    """Takes the errors of latents, in any order, and keeps those of every unit's last one."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # By unit, of the latest of its latents so far: its place in the execution, its key, and its error.
        self._latents: dict[int, tuple[int, Key, float]] = {}

    def add(self, order: int, key: Key, error: Error) -> None:
        """Take the error of the latent at `key`, whose place in the reference's execution is `order`.

        A later one takes the place of an earlier one.
        """
        self._keep(order, key, error.rel_l2)

    def merge(self, other: "Growth", lines: int) -> None:
        """Take what another part of the run showed, before which there are so many lines."""
        for order, key, rel_l2 in other._latents.values():
            self._keep(order + lines, key, rel_l2)

    @property
    def units(self) -> list[LatentError]:
        """Every unit's, first unit first."""
        return [self._at(*self._latents[unit][1:]) for unit in sorted(self._latents)]

    def _at(self, key: Key, rel_l2: float) -> LatentError:
        distance = rel_l2 if math.isfinite(rel_l2) else None
        return LatentError(unit=key.unit, rel_l2=distance, tolerance=self._bounds.of(key).rel_l2)

    def _keep(self, order: int, key: Key, rel_l2: float) -> None:
        known = self._latents.get(key.unit)
        if known is None or order > known[0]:
            self._latents[key.unit] = order, key, rel_l2
