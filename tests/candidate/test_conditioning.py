"""Noise level, controls and modulations against their formulas."""

import math

import torch
from torch.nn import functional

from waypoint_parity.candidate.conditioning import (
    ControlEmbedding,
    Modulator,
    NoiseConditioner,
    adapt,
    wave_numbers,
)
from waypoint_parity.candidate.config import WaypointConfig


def test_wave_numbers_fall_geometrically_from_1_to_a_ten_thousandth() -> None:
    expected = [10000 ** (-i / 255) for i in range(256)]
    torch.testing.assert_close(wave_numbers().double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-6, atol=0)


@torch.no_grad()
def test_cond_is_an_mlp_of_sines_then_cosines_of_a_thousand_sigma(config: WaypointConfig) -> None:
    conditioner = NoiseConditioner(config)
    phase = [0.3 * 1000 * frequency for frequency in conditioner.frequencies.tolist()]
    features = math.sqrt(2) * torch.tensor([*map(math.sin, phase), *map(math.cos, phase)])
    expected = conditioner.mlp[2].weight @ functional.silu(conditioner.mlp[0].weight @ features)
    torch.testing.assert_close(conditioner(torch.tensor([[0.3]]))[0, 0], expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_cond_of_a_bf16_level_is_computed_in_fp32_and_rounded_once(config: WaypointConfig) -> None:
    conditioner = NoiseConditioner(config)
    level = torch.tensor([[0.859375]])
    cond = conditioner(level.bfloat16())
    assert cond.dtype == torch.bfloat16
    assert torch.equal(cond, conditioner(level).bfloat16())


@torch.no_grad()
def test_one_product_serves_the_heads_of_all_blocks(config: WaypointConfig) -> None:
    modulator = Modulator(config)
    modulator.bias_in.normal_(generator=torch.Generator().manual_seed(0))
    products: list[torch.Size] = []
    modulator.cond_proj.register_forward_hook(lambda module, inputs, output: products.append(output.shape))
    cond = torch.randn(1, 1, config.d_model)
    modulations = modulator(cond)
    assert products == [(config.n_layers, 6 * config.d_model)]
    for layer, head in enumerate(modulations.blocks):
        assert head.shape == (6, 1, 1, config.d_model)
        for slot, matrix in enumerate(modulator.cond_proj.weight.chunk(6)):
            torch.testing.assert_close(
                head[slot, 0, 0], matrix @ functional.silu(cond[0, 0] + modulator.bias_in[layer])
            )
    scale_and_bias = modulator.out_norm.weight @ functional.silu(cond[0, 0])
    torch.testing.assert_close(modulations.out_norm.flatten(), scale_and_bias)


@torch.no_grad()
def test_controls_are_mouse_buttons_and_the_sign_of_the_scroll(config: WaypointConfig) -> None:
    embedding = ControlEmbedding(config)
    mouse, button = torch.tensor([0.5, -2.0]), torch.arange(float(config.n_buttons))
    for scroll, sign in ((-3.0, -1.0), (0.0, 0.0), (0.1, 1.0)):
        expected = embedding.mlp(torch.tensor([[[0.5, -2.0, *button.tolist(), sign]]]))
        assert torch.equal(embedding(mouse, button, torch.tensor([scroll])), expected)


def test_a_vector_is_adapted_by_a_scale_around_one_and_adds_the_bias() -> None:
    x = torch.tensor([[[3.0, 4.0]]])
    scale, bias = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[10.0, 20.0]]])
    root = math.sqrt(12.5)
    torch.testing.assert_close(adapt(x, scale, bias), torch.tensor([[[10 + 1.5 * 3 / root, 20.0]]]))
