"""The checkpoint's layout becomes the native one at load, and only there."""

import pytest
import torch
from torch import Tensor

from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.weights import load_waypoint, waypoint_layout

CPU = torch.device("cpu")
BLOCK = "transformer.blocks.3"


@pytest.fixture(scope="module")
def native(config: WaypointConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return waypoint_layout(config, weights)


def test_merged_qkv_gives_the_three_products(
    config: WaypointConfig, weights: dict[str, Tensor], native: dict[str, Tensor]
) -> None:
    x = torch.randn(2, config.d_model)
    parts = torch.split(x @ native["blocks.3.attn.qkv.weight"].T, [128, 64, 64], dim=-1)
    for name, part in zip("qkv", parts, strict=True):
        torch.testing.assert_close(part, x @ weights[f"{BLOCK}.attn.{name}_proj.weight"].T)


def test_split_fusion_sums_to_the_product_with_both(
    config: WaypointConfig, weights: dict[str, Tensor], native: dict[str, Tensor]
) -> None:
    x, c = torch.randn(2, config.d_model)
    halves = native["blocks.3.ctrl_mlpfusion.x_proj.weight"] @ x + native["blocks.3.ctrl_mlpfusion.c_proj.weight"] @ c
    torch.testing.assert_close(halves, weights[f"{BLOCK}.ctrl_mlpfusion.mlp.fc1.weight"] @ torch.cat((x, c)))


def test_conditioning_matrices_are_kept_once(config: WaypointConfig, native: dict[str, Tensor]) -> None:
    assert [key for key in native if "cond_proj" in key] == ["modulator.cond_proj.weight"]
    assert native["modulator.cond_proj.weight"].shape == (6 * config.d_model, config.d_model)


def test_a_block_that_does_not_share_them_is_named(config: WaypointConfig, weights: dict[str, Tensor]) -> None:
    key = "transformer.blocks.2.cond_head.cond_proj.4.weight"
    with pytest.raises(ValueError, match=r"block 2 does not share[\s\S]*cond_proj\.4[\s\S]*by up to 1\b"):
        waypoint_layout(config, weights | {key: weights[key] + 1})


def test_in_bf16_the_noise_conditioner_keeps_rounded_values_in_fp32_and_rope_keeps_exact_ones(
    config: WaypointConfig, weights: dict[str, Tensor], native: dict[str, Tensor]
) -> None:
    state = load_waypoint(config, weights, torch.bfloat16, CPU).state_dict()
    for key, value in state.items():
        if key.startswith("rope."):
            assert torch.equal(value, native[key])
        elif key.startswith("noise_conditioner."):
            assert torch.equal(value, native[key].bfloat16().float())
        else:
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, native[key].bfloat16())
