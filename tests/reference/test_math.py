import torch
from torch.nn.functional import scaled_dot_product_attention

from waypoint_parity.reference.eager.math import attention, rms_norm


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
