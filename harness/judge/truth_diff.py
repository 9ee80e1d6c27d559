"""The third way between dumps: how far either is from the dump of an fp32 run (see harness.compare.truth)."""

from waypoint_parity.harness.compare.contract import ACCEPTABLE
from waypoint_parity.harness.judge.comparison import Comparison, Distances, with_distances
from waypoint_parity.harness.judge.diff import Dump, diff_dumps
from waypoint_parity.harness.judge.judgement import FIXED, Judgement
from waypoint_parity.harness.run.keys import Phase, is_input


def with_truth(comparison: Comparison, truth: Dump, reference: Dump, candidate: Dump) -> Comparison:
    """`comparison` of two dumps with the distances of both from `truth`; one without a score stays as it is."""
    if comparison.reason is not None:
        return comparison
    ladders = [_distances(truth, dump) for dump in (reference, candidate)]
    both = {place: (ladders[0][place], ladders[1][place]) for place in ladders[0].keys() & ladders[1].keys()}
    distances: dict[tuple[Phase, int, str], Distances] = both
    return with_distances(comparison, distances)


def _distances(truth: Dump, dump: Dump) -> dict[tuple[Phase, int, str], float]:
    """The largest distance of `dump` from the truth at every place that both have."""
    # Rounded to a lower precision every input is another number: that is what is being measured.
    everything = Judgement(FIXED["fp32"], accepted_inputs=tuple(ACCEPTABLE), allowed_missing=("*",))
    return {
        (rung.phase, rung.step, rung.site): rung.distance
        for rung in diff_dumps(truth, dump, everything).sites
        if not is_input(rung.site)
    }
