import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from waypoint_parity.reference.eager.conditioning import ConditioningHead, ControlEmbedding, NoiseConditioner
from waypoint_parity.reference.eager.mlp import MLP


def test_mlp_is_fc2_of_silu_of_fc1() -> None:
    mlp, x = MLP(3, 5, 2), torch.randn(4, 3)
    torch.testing.assert_close(mlp(x), silu(x @ mlp.fc1.weight.T) @ mlp.fc2.weight.T)


def test_frequencies_fall_from_one_to_a_ten_thousandth() -> None:
    expected = 10000.0 ** (-torch.arange(256, dtype=torch.float64) / 255)
    torch.testing.assert_close(NoiseConditioner.frequencies(torch.float32).double(), expected, rtol=1e-6, atol=0)


def test_frequencies_pass_through_the_dtype_of_the_run() -> None:
    exact = NoiseConditioner.frequencies(torch.float32)
    rounded = NoiseConditioner.frequencies(torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert rounded.equal(exact.bfloat16().float())
    assert not rounded.equal(exact)


@pytest.mark.parametrize("sigma", [0.0, 0.3205108940601349, 1.0])
def test_noise_level_becomes_sines_then_cosines_of_a_thousandfold(
    sigma: float, randomise: Callable[[nn.Module], None]
) -> None:
    conditioner = NoiseConditioner(8)
    randomise(conditioner)
    phases = [torch.tensor(sigma) * 1000 * frequency for frequency in NoiseConditioner.frequencies(torch.float32)]
    features = [math.sin(phase) for phase in phases] + [math.cos(phase) for phase in phases]
    expected = conditioner.mlp(math.sqrt(2) * torch.tensor(features)).view(1, 1, 8)
    torch.testing.assert_close(conditioner(torch.tensor([[sigma]])), expected, rtol=1e-4, atol=1e-4)


def test_noise_level_in_bf16_computes_in_fp32_and_casts_once() -> None:
    conditioner = NoiseConditioner(8)
    sigma = torch.tensor([[0.5]], dtype=torch.bfloat16)
    phase = 500 * NoiseConditioner.frequencies(torch.bfloat16)
    features = math.sqrt(2) * torch.cat([phase.sin(), phase.cos()])
    assert conditioner(sigma).equal(conditioner.mlp(features.view(1, 1, -1)).bfloat16())


def test_controls_are_joined_as_mouse_buttons_scroll() -> None:
    embedding = ControlEmbedding(n_buttons=2, hidden=6, width=4)
    mouse, button, scroll = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]), torch.tensor([1.0])
    expected = embedding.mlp(torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0])).view(1, 1, 4)
    torch.testing.assert_close(embedding(mouse, button, scroll), expected)


def test_only_the_sign_of_the_scroll_counts() -> None:
    embedding = ControlEmbedding(n_buttons=2, hidden=6, width=4)
    mouse, button = torch.zeros(2), torch.zeros(2)
    assert embedding(mouse, button, torch.tensor([-7.0])).equal(embedding(mouse, button, torch.tensor([-0.1])))
    assert not embedding(mouse, button, torch.tensor([1.0])).equal(embedding(mouse, button, torch.tensor([-1.0])))


def test_idle_controls_embed_to_zero() -> None:
    embedding = ControlEmbedding(n_buttons=2, hidden=6, width=4)
    assert embedding(torch.zeros(2), torch.zeros(2), torch.zeros(1)).eq(0).all()


def test_head_projects_the_biased_condition_six_times_in_order(randomise: Callable[[nn.Module], None]) -> None:
    head, cond = ConditioningHead(4), torch.randn(1, 1, 4)
    randomise(head)
    biased = silu(cond + head.bias_in)
    vectors = head(cond)
    assert vectors.shape == (6, 1, 1, 4)
    for vector, projection in zip(vectors, head.cond_proj, strict=True):
        torch.testing.assert_close(vector, projection(biased))
