"""OrthoRoPE against its formula, written out pair by pair."""

import dataclasses
import math

import pytest
import torch

from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.rope import OrthoRoPE, Rotation, rotate


def angle(config: WaypointConfig, pair: int, x: int, y: int, t: int) -> float:
    """The specification's angle of one pair: D/8 pairs for x, D/8 for y, D/4 for t."""
    eighth = config.head_dim // 8
    highest = 0.8 * min(config.height, config.width) / 2
    if pair < 2 * eighth:
        place, cells = (x, config.width) if pair < eighth else (y, config.height)
        count = eighth // 2
        step = (highest - 1) / (count - 1) if count > 1 else 0.0
        return (-1 + (2 * place + 1) / cells) * math.pi * (1 + step * (pair % eighth // 2))
    return float(t * 10000 ** (-2 * ((pair - 2 * eighth) // 2) / (2 * eighth)))


@pytest.mark.parametrize(("d_model", "height", "width"), [(128, 4, 4), (256, 4, 4), (128, 3, 5), (256, 8, 2)])
def test_every_pair_of_every_token_has_the_angle_of_the_formula(
    config: WaypointConfig, d_model: int, height: int, width: int
) -> None:
    geometry = dataclasses.replace(config, d_model=d_model, height=height, width=width)
    rotation = OrthoRoPE(geometry)(torch.tensor([[9]]), torch.float32)
    for token in range(height * width):
        angles = [angle(geometry, pair, token % width, token // width, 9) for pair in range(geometry.head_dim // 2)]
        expected = torch.tensor(angles, dtype=torch.float64)
        torch.testing.assert_close(rotation.cos[token].double(), expected.cos(), rtol=0, atol=2e-6)
        torch.testing.assert_close(rotation.sin[token].double(), expected.sin(), rtol=0, atol=2e-6)


def test_consecutive_pairs_turn_and_their_first_components_come_first() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    angles = torch.tensor([[0.3, 1.1]])
    first = [math.cos(0.3) - 2 * math.sin(0.3), 3 * math.cos(1.1) - 4 * math.sin(1.1)]
    second = [math.sin(0.3) + 2 * math.cos(0.3), 3 * math.sin(1.1) + 4 * math.cos(1.1)]
    torch.testing.assert_close(rotate(x, Rotation(angles.cos(), angles.sin())), torch.tensor([first + second]))


def test_scores_depend_on_the_time_between_two_frames_only(config: WaypointConfig) -> None:
    rope = OrthoRoPE(config)
    q, k = torch.randn(2, 1, 2, config.tokens, config.head_dim, generator=torch.manual_seed(0))

    def scores(asked: int, seen: int) -> torch.Tensor:
        turned = [rotate(x, rope(torch.tensor([[t]]), torch.float32)) for x, t in ((q, asked), (k, seen))]
        return turned[0] @ turned[1].mT

    torch.testing.assert_close(scores(7, 2), scores(25, 20), rtol=0, atol=1e-4)
    assert not torch.allclose(scores(7, 2), scores(7, 3), atol=1e-1)


def test_in_bf16_the_angles_are_exact_and_cos_and_sin_are_rounded(config: WaypointConfig) -> None:
    clock = torch.tensor([[1001]])
    exact, rounded = (OrthoRoPE(config)(clock, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rounded.cos.dtype == torch.float32
    assert torch.equal(rounded.cos, exact.cos.bfloat16().float())
    assert torch.equal(rounded.sin, exact.sin.bfloat16().float())


def test_rotation_of_bf16_heads_is_computed_in_fp32_and_rounded_once(config: WaypointConfig) -> None:
    rotation = OrthoRoPE(config)(torch.tensor([[5]]), torch.bfloat16)
    x = torch.randn(1, 2, config.tokens, config.head_dim, generator=torch.manual_seed(0)).bfloat16()
    assert torch.equal(rotate(x, rotation), rotate(x.float(), rotation).bfloat16())
