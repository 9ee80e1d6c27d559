"""The third way: how far either side is from the reference in fp32, where both run in a lower precision.

Two right bf16 runs differ, and which of them is nearer to the truth no comparison of the two can tell. Information
and no verdict: a bf16 run is further from fp32 than two right bf16 runs are from each other.
"""

from torch import Tensor

from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.judge.comparison import Comparison, Distances, with_distances
from waypoint_parity.harness.run.keys import Key, Rung, is_input
from waypoint_parity.harness.run.taps import Observation


class Truth:
    """Keeps what the fp32 run shows, until both sides have shown it, and the largest distances of either from it."""

    def __init__(self) -> None:
        self._tensors: dict[Key, Tensor] = {}
        self._distances: dict[Rung, Distances] = {}

    def observe(self, seen: Observation) -> None:
        """Take what the fp32 run shows."""
        if not is_input(seen.key.site):
            self._tensors[seen.key] = seen.tensor.detach().clone()

    def compare(self, key: Key, candidate: Tensor, reference: Tensor) -> None:
        """Take what both sides showed; nothing comes of it where there is no fp32 run."""
        truth = self._tensors.pop(key, None)
        if truth is None:
            return
        before = self._distances.get(key.rung, (0.0, 0.0))
        now = (tensor_error(reference, truth).rel_l2, tensor_error(candidate, truth).rel_l2)
        self._distances[key.rung] = (max(before[0], now[0]), max(before[1], now[1]))

    def annotate(self, comparison: Comparison) -> Comparison:
        """`comparison` with the distances in its ladder."""
        return with_distances(comparison, self._distances)
