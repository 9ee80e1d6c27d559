import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.judge.noise_floor.measure import against_itself
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.reference.eager.adapter import EagerAdapter
from waypoint_parity.reference.eager.formulations import FORMULATIONS

# What a formulation computes otherwise shows at these sites first, in execution order.
FIRST = {"fused-attention": "transformer.blocks.0.attn", "merged-projections": "transformer.blocks.0.ctrl_mlpfusion"}


def test_every_formulation_is_an_option_that_must_not_matter() -> None:
    assert EagerAdapter.HARMLESS == tuple(FORMULATIONS) == tuple(FIRST)
    assert set(EagerAdapter.HARMLESS) < set(EagerAdapter.OPTIONS)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 3e-6), ("bf16", 3e-2)])
def test_a_formulation_computes_the_same_otherwise(
    formulation: str, dtype: str, bound: float, tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    numerics = Numerics(DTYPES[dtype], torch.device("cpu"))
    plain, other = load("eager", tiny, numerics), load(f"eager+{formulation}", tiny, numerics)
    assert plain.sites().keys() == other.sites().keys()
    errors = against_itself(plain, other, tiny, tiny_scenario)
    assert 0 < max(error.rel_l2 for key, error in errors.items() if key.site != "frame") < bound
    if dtype == "bf16":
        first = next(key for key, error in errors.items() if not error.identical)
        assert first.site == FIRST[formulation]
