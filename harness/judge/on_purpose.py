"""On purpose: whether two sides differ only in which constants they round, such as a schedule or a table in bf16."""

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import load_shadowed
from waypoint_parity.harness.compare.tensor_error import exact_distance
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.taps import Observation


def differs_in_constants(
    reference: str, candidate: str, checkpoint: Checkpoint, numerics: Numerics, scenario: Scenario, key: Key
) -> bool:
    """Whether the exact values at `key` are the same once neither side rounds a constant to less than fp32."""
    actual, expected = (_at(name, checkpoint, numerics, scenario, key) for name in (candidate, reference))
    if actual is None or expected is None:
        return False
    distance = exact_distance(actual, expected)
    return distance is not None and distance <= SAME_MATHEMATICS


def _at(name: str, checkpoint: Checkpoint, numerics: Numerics, scenario: Scenario, key: Key) -> Observation | None:
    """What an implementation shows at `key`, no constant rounded."""
    found: list[Observation] = []

    def see(seen: Observation) -> None:
        if seen.key == key:
            found.append(seen.kept())

    shadowed = load_shadowed(name, checkpoint, numerics, constants_rounded=False)
    shadowed.watched(checkpoint.family.first_units(scenario, key.unit + 1), see)
    return found[0] if found else None
