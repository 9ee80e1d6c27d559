"""What a scenario holds, as lines for a terminal."""

from waypoint_parity.harness.record.statistics import summarise
from waypoint_parity.harness.run.scenario import Scenario


def scenario_lines(scenario: Scenario) -> list[str]:
    """Identity and tensors of a scenario, and what its prompt looks like."""
    tensors = [
        f"  {name:16} {list(tensor.shape)!s:28} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in scenario.tensors.items()
    ]
    seed = scenario.world_seed
    rendered = [] if seed is None else [f"  true frames      walk {seed} of the small world"]
    return [
        f"scenario {scenario.name}: {scenario.frames} frames, seed {scenario.seed}, noise {scenario.noise_policy}",
        f"  digest           {scenario.digest}",
        *rendered,
        *tensors,
        *_prompt_lines(scenario),
    ]


def _prompt_lines(scenario: Scenario) -> list[str]:
    if scenario.prompt is None:
        return []
    values = summarise(scenario.prompt.embedding)
    numbers = {"mean": values.mean, "std": values.std, "min": values.min, "max": values.max}
    shown = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items() if value is not None)
    padded = scenario.prompt.pad_mask.float().mean().item()
    return [f"  prompt           {shown}, {padded:.1%} padded"]
