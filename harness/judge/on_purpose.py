"""On purpose: whether two sides differ only in which constants they round, such as a schedule or a table in bf16."""

from dataclasses import replace

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import load_shadowed
from waypoint_parity.harness.compare.tensor_error import exact_distance
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps


def differs_in_constants(
    reference: str, candidate: str, checkpoint: Checkpoint, numerics: Numerics, scenario: Scenario, key: Key
) -> bool:
    """Whether the exact values at `key` are the same once neither side rounds a constant to less than fp32."""
    shown = [_at(name, checkpoint, numerics, scenario, key) for name in (candidate, reference)]
    if None in shown:
        return False
    actual, expected = shown
    assert actual is not None
    assert expected is not None
    distance = exact_distance(actual, expected)
    return distance is not None and distance <= SAME_MATHEMATICS


def _at(name: str, checkpoint: Checkpoint, numerics: Numerics, scenario: Scenario, key: Key) -> Observation | None:
    """What an implementation shows at `key`, no constant rounded."""
    shadowed, found = load_shadowed(name, checkpoint, numerics, constants_rounded=False), []
    cut = checkpoint.family.first_units(scenario, key.unit + 1)
    shadowed.expect(cut)

    def see(seen: Observation) -> None:
        if seen.key == key:
            found.append(replace(seen, exact=shadowed.shadow.of(seen.tensor)).kept())

    site = {key.site: shadowed.adapter.sites()[key.site]}
    with Taps(site, see) as taps, shadowed.shadow:
        run(shadowed.adapter, cut, checkpoint, taps)
    return found[0] if found else None
