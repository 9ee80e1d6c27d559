import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.layers import (
    MLP,
    Block,
    ConditioningHead,
    ControlEmbedding,
    ControlFusion,
    CrossAttention,
    NoiseConditioner,
    PassContext,
    SelfAttention,
    modulations,
)
from waypoint_parity.reference.eager.math import attention, cosines_and_sines, rms_norm, rotate, rotation_angles

CPU = torch.device("cpu")


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


def test_the_six_vectors_are_scale_bias_and_gate_of_the_attention_then_of_the_mlp() -> None:
    vectors = torch.arange(6.0).view(6, 1, 1, 1)
    attn, mlp = modulations(vectors)
    assert [float(vector) for vector in (attn.scale, attn.bias, attn.gate)] == [0, 1, 2]
    assert [float(vector) for vector in (mlp.scale, mlp.bias, mlp.gate)] == [3, 4, 5]


@pytest.fixture
def context(config: TransformerConfig) -> PassContext:
    rotation = cosines_and_sines(rotation_angles(0, config.height, config.width, config.head_dim))
    width, prompt_width = config.d_model, config.prompt_embedding_dim or 0
    prompt = torch.randn(1, 3, prompt_width)
    return PassContext(0, rotation, torch.randn(1, 1, width), torch.randn(1, 1, width), prompt)


def ring(config: TransformerConfig) -> RingCache:
    cache = RingCache(config, layer=1)
    cache.reset(CPU, torch.float32)
    return cache


def tokens(config: TransformerConfig) -> torch.Tensor:
    return torch.randn(1, config.tokens_per_frame, config.d_model)


def test_tokens_of_a_frame_see_each_other_in_both_directions(config: TransformerConfig, context: PassContext) -> None:
    attn, a = SelfAttention(config), tokens(config)
    for changed, watched in ((0, -1), (-1, 0)):
        other = a.clone()
        other[:, changed] += 1
        difference = attn(other, context, ring(config)) - attn(a, context, ring(config))
        assert difference[:, watched].abs().max() > 1e-4


def test_the_gate_reads_the_first_channels_of_the_input_and_scales_heads(
    config: TransformerConfig, context: PassContext
) -> None:
    attn, a = SelfAttention(config), tokens(config)
    assert attn.gate_proj is not None
    torch.nn.init.zeros_(attn.gate_proj.weight)
    half_open = attn(a, context, ring(config))
    attn.gate_proj.register_forward_hook(lambda module, inputs, output: torch.full_like(output, 40.0))
    torch.testing.assert_close(attn(a, context, ring(config)), 2 * half_open)
    seen: list[torch.Tensor] = []
    attn.gate_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    attn(a, context, ring(config))
    assert seen[0].equal(a[..., : config.n_heads])


def test_heads_are_joined_in_order_and_projected(config: TransformerConfig, context: PassContext) -> None:
    attn, a, cache = SelfAttention(replace(config, gated_attn=False)), tokens(config), ring(config)
    shown: list[torch.Tensor] = []
    attn.q_rope.register_forward_hook(lambda module, inputs, output: shown.append(output))
    out = attn(a, context, cache)
    keys, values = cache.tail
    heads = attention(shown[0], keys, values)
    torch.testing.assert_close(out, attn.out_proj(torch.cat(list(heads.unbind(dim=1)), dim=-1)))


def test_values_are_neither_normed_nor_rotated(config: TransformerConfig, context: PassContext) -> None:
    attn, a, cache = SelfAttention(config), tokens(config), ring(config)
    context.rotation = torch.full_like(context.rotation, 0.5)
    attn(a, context, cache)
    raw = attn.v_proj(a).unflatten(-1, (config.n_kv_heads, config.head_dim)).transpose(1, 2)
    assert cache.tail[1].equal(raw)


def test_queries_and_keys_are_normed_before_they_are_rotated(config: TransformerConfig, context: PassContext) -> None:
    attn, a = SelfAttention(config), tokens(config)
    for project, probe in ((attn.q_proj, attn.q_rope), (attn.k_proj, attn.k_rope)):
        shown: list[torch.Tensor] = []
        probe.register_forward_hook(lambda module, inputs, output, shown=shown: shown.append(output))
        attn(a, context, ring(config))
        raw = project(a).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        torch.testing.assert_close(shown[0], rotate(rms_norm(raw), context.rotation))


def test_the_value_residual_always_reaches_back_to_layer_zero(config: TransformerConfig, context: PassContext) -> None:
    residual = replace(config, value_residual=True)
    layers = [SelfAttention(residual) for _ in range(3)]
    a, cache = tokens(config), ring(config)
    mixed = []
    for layer in layers:
        assert layer.v_lamb is not None
        torch.nn.init.constant_(layer.v_lamb, 0.25)
        layer(a, context, cache)
        mixed.append(cache.tail[1])
    raw = [layer.v_proj(a).unflatten(-1, (config.n_kv_heads, config.head_dim)).transpose(1, 2) for layer in layers]
    for own, value in zip(raw, mixed, strict=True):
        torch.testing.assert_close(value, 0.75 * own + 0.25 * raw[0])


def test_padding_of_the_prompt_takes_its_share() -> None:
    attn = CrossAttention(width=64, prompt_width=64, head_dim=32)
    x, prompt = torch.randn(1, 5, 64), torch.randn(1, 2, 64)
    padded = torch.cat([prompt, torch.zeros(1, 2, 64)], dim=1)
    assert attn(x, padded).norm() < 0.9 * attn(x, prompt).norm()


def test_the_prompt_is_attended_with_normed_queries_and_keys(randomise: Callable[[nn.Module], None]) -> None:
    attn = CrossAttention(width=64, prompt_width=64, head_dim=32)
    randomise(attn)
    x, prompt = torch.randn(1, 5, 64), torch.randn(1, 4, 64)
    unscaled = attn(x, prompt)
    attn.q_proj.weight.mul_(3)
    attn.k_proj.weight.mul_(5)
    torch.testing.assert_close(attn(x, prompt), unscaled)


def test_fusion_is_an_mlp_over_token_then_control() -> None:
    fusion, x, ctrl = ControlFusion(8), torch.randn(1, 3, 8), torch.randn(1, 1, 8)
    torch.testing.assert_close(fusion(x, ctrl), fusion.mlp(torch.cat([x, ctrl.expand(1, 3, 8)], dim=-1)))


def test_a_block_adds_attention_prompt_control_mlp_in_order(
    config: TransformerConfig, context: PassContext, randomise: Callable[[nn.Module], None]
) -> None:
    block, x = Block(config, layer=0), tokens(config)
    randomise(block)
    assert block.prompt_cross_attn is not None
    assert block.ctrl_mlpfusion is not None
    assert context.prompt is not None
    attn_scale, attn_bias, attn_gate, mlp_scale, mlp_bias, mlp_gate = block.cond_head(context.cond)
    y = x + attn_gate * block.attn(rms_norm(x) * (1 + attn_scale) + attn_bias, context, ring(config))
    y = y + block.prompt_cross_attn(rms_norm(y), rms_norm(context.prompt))
    y = y + block.ctrl_mlpfusion(rms_norm(y), rms_norm(context.ctrl))
    y = y + mlp_gate * block.mlp(rms_norm(y) * (1 + mlp_scale) + mlp_bias)
    torch.testing.assert_close(block(x, context, ring(config)), y)


def test_a_layer_off_the_period_has_neither_prompt_nor_control(config: TransformerConfig) -> None:
    block = Block(config, layer=1)
    assert block.prompt_cross_attn is None
    assert block.ctrl_mlpfusion is None
