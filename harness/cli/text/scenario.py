"""What a scenario holds, as lines for a terminal."""

from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.scenario import Scenario


def scenario_lines(scenario: Scenario) -> list[str]:
    """Identity and fields of a scenario, and what its family says of it."""
    family = family_named(scenario.family)
    # A file keeps neither tensors nor labels in the order in which they were made.
    tensors = [
        f"  {name:16} {list(tensor.shape)!s:28} {str(tensor.dtype).removeprefix('torch.')}"
        for name in family.fields
        if (tensor := scenario.get(name)) is not None
    ]
    return [
        f"scenario {scenario.name}: {scenario.units} {family.unit_name}s of {scenario.family}, seed {scenario.seed}",
        f"  digest           {scenario.digest}",
        *(f"  {name:16} {value}" for name, value in sorted(scenario.labels.items())),
        *tensors,
        *(f"  {name:16} {value:.9g}" for name, value in scenario.numbers.items()),
        *(f"  {line}" for line in family.scenario_lines(scenario)),
    ]
