import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from waypoint_parity.reference.eager.math import attention, cosines_and_sines, rms_norm, rotate, rotation_angles

HEIGHT, WIDTH, D = 4, 6, 64
X, Y, T = slice(0, D // 8), slice(D // 8, D // 4), slice(D // 4, D // 2)


def test_rms_norm_gives_unit_mean_square_over_the_last_axis() -> None:
    normed = rms_norm(5 * torch.randn(2, 3, 64))
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(2, 3))


def test_rms_norm_keeps_zero_at_zero() -> None:
    assert rms_norm(torch.zeros(4)).equal(torch.zeros(4))


def test_rms_norm_of_bf16_computes_in_fp32_and_casts_once() -> None:
    x = 1e-4 * torch.randn(8, 32).bfloat16()  # small, so that the epsilon of bf16 would show
    assert rms_norm(x).equal(rms_norm(x.float()).bfloat16())


def test_attention_is_softmax_of_scaled_scores() -> None:
    q, k, v = torch.randn(1, 4, 6, 32), torch.randn(1, 2, 10, 32), torch.randn(1, 2, 10, 32)
    torch.testing.assert_close(attention(q, k, v), scaled_dot_product_attention(q, k, v, enable_gqa=True))


def test_neighbouring_query_heads_share_a_key_head() -> None:
    values = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 32)
    y = attention(torch.randn(1, 4, 5, 32), torch.randn(1, 2, 3, 32), values)
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))


def test_a_zero_key_takes_its_share() -> None:
    keys, values = torch.zeros(1, 1, 4, 32), torch.zeros(1, 1, 4, 32)
    values[:, :, 0] = 1
    torch.testing.assert_close(attention(torch.randn(1, 1, 2, 32), keys, values), torch.full((1, 1, 2, 32), 0.25))


def grid(frame: int) -> torch.Tensor:
    """Angles as [h,w,D/2]."""
    return rotation_angles(frame, HEIGHT, WIDTH, D).view(HEIGHT, WIDTH, D // 2)


def test_pairs_are_x_then_y_then_time() -> None:
    angles = grid(frame=3)
    assert angles.shape == (HEIGHT, WIDTH, D // 2)
    assert angles[:1, :, X].expand(HEIGHT, -1, -1).equal(angles[..., X])
    assert angles[:, :1, Y].expand(-1, WIDTH, -1).equal(angles[..., Y])
    assert angles[:1, :1, T].expand(HEIGHT, WIDTH, -1).equal(angles[..., T])
    assert angles[0, 0, X].ne(angles[0, 1, X]).all()
    assert angles[0, 0, Y].ne(angles[1, 0, Y]).all()


def test_coordinates_are_cell_centres() -> None:
    lowest_x, lowest_y = grid(frame=0)[0, :, 0], grid(frame=0)[:, 0, D // 8]  # of frequency pi
    torch.testing.assert_close(lowest_x / math.pi, torch.tensor([-5, -3, -1, 1, 3, 5]) / 6)
    torch.testing.assert_close(lowest_y / math.pi, torch.tensor([-3, -1, 1, 3]) / 4)


def test_spatial_frequencies_reach_half_of_the_band() -> None:
    at_right = grid(frame=0)[0, -1, X] / (5 / 6)
    top = 0.8 * min(HEIGHT, WIDTH) / 2
    torch.testing.assert_close(at_right[::2], math.pi * torch.linspace(1, top, D // 16))


def test_two_consecutive_pairs_share_a_frequency() -> None:
    angles = grid(frame=5)
    assert angles[..., 0::2].equal(angles[..., 1::2])


def test_time_zero_does_not_rotate_the_temporal_pairs() -> None:
    assert grid(frame=0)[..., T].eq(0).all()


@pytest.mark.parametrize("head_dim", [32, 64])
def test_temporal_frequencies_fall_over_a_quarter_of_the_head(head_dim: int) -> None:
    temporal = rotation_angles(7, HEIGHT, WIDTH, head_dim)[0, head_dim // 4 :: 2]
    expected = [7 * 10000 ** (-2 * i / (head_dim / 4)) for i in range(head_dim // 8)]
    torch.testing.assert_close(temporal, torch.tensor(expected))


def test_rotation_reads_consecutive_pairs_and_writes_firsts_then_seconds() -> None:
    x = torch.zeros(1, 1, 1, 32)
    x[..., 6] = 1  # first of pair 3
    angles = torch.zeros(1, 16)
    angles[0, 3] = math.pi / 6
    y = rotate(x, cosines_and_sines(angles))[0, 0, 0]
    assert y.nonzero().flatten().tolist() == [3, 16 + 3]
    torch.testing.assert_close(y[[3, 19]], torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))


def test_scores_depend_on_the_distance_in_time_alone() -> None:
    q, k = torch.randn(1, 1, HEIGHT * WIDTH, D), torch.randn(1, 1, HEIGHT * WIDTH, D)

    def scores(query_frame: int, key_frame: int) -> torch.Tensor:
        rotations = (cosines_and_sines(rotation_angles(t, HEIGHT, WIDTH, D)) for t in (query_frame, key_frame))
        turned = (rotate(x, rotation) for x, rotation in zip((q, k), rotations, strict=True))
        return next(turned) @ next(turned).transpose(-2, -1)

    torch.testing.assert_close(scores(2, 1), scores(9, 8), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores(2, 1), scores(3, 1), atol=1e-2)


def test_bf16_rotates_in_fp32() -> None:
    x, angles = torch.randn(1, 1, 1, 32).bfloat16(), torch.rand(1, 16)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    expected = torch.cat([first * cos - second * sin, first * sin + second * cos], -1).bfloat16()
    assert rotate(x, cosines_and_sines(angles)).equal(expected)
