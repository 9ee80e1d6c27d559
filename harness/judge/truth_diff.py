"""The third way between dumps: how far either is from the dump of an fp32 run (see harness.judge.truth)."""

from waypoint_parity.harness.judge.comparison import Comparison, Distances, with_distances
from waypoint_parity.harness.judge.diff import Dump, diff_dumps
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import Rung, is_input


def with_truth(comparison: Comparison, truth: Dump, reference: Dump, candidate: Dump) -> Comparison:
    """`comparison` of two dumps with the distances of both from `truth`; one without a score stays as it is."""
    if comparison.reason is not None:
        return comparison
    ladders = [_distances(truth, dump) for dump in (reference, candidate)]
    both = {place: (ladders[0][place], ladders[1][place]) for place in ladders[0].keys() & ladders[1].keys()}
    distances: dict[Rung, Distances] = both
    return with_distances(comparison, distances)


def _distances(truth: Dump, dump: Dump) -> dict[Rung, float]:
    """The largest distance of `dump` from the truth at every place that both have."""
    # Rounded to a lower precision every input is another number: that is what is being measured.
    family = family_named(truth.manifest.family)
    accepted = (*family.sites.acceptable, "checkpoint", "dtype")
    everything = Judgement(fixed_tolerance(family, "fp32"), accepted_inputs=accepted, allowed_missing=("*",))
    return {rung.rung: rung.distance for rung in diff_dumps(truth, dump, everything).sites if not is_input(rung.site)}
