"""Attention against its formulas, written out."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from waypoint_parity.candidate.attention import PromptAttention, SelfAttention, grouped_attention
from waypoint_parity.candidate.conditioning import unit_rms
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.kv_cache import Window
from waypoint_parity.candidate.rope import OrthoRoPE, rotate

GENERATOR = torch.Generator().manual_seed(0)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The textbook's, keys and values repeated per query head: [1,H,T,D] -> [1,T,H,D]."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    shares = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return (shares @ v).transpose(1, 2)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 2), (4, 1)])
def test_folding_query_heads_equals_repeating_keys_and_values(heads: int, groups: int) -> None:
    q = torch.randn(1, heads, 5, 32, generator=GENERATOR)
    k, v = torch.randn(2, 1, groups, 11, 32, generator=GENERATOR)
    torch.testing.assert_close(grouped_attention(q, k, v), explicit_attention(q, k, v))


@pytest.fixture
def frame(config: WaypointConfig) -> tuple[Tensor, Tensor, Window]:
    """A frame's tokens [1,T,M], an empty ring of two slots, the window of its first frame."""
    x = torch.randn(1, config.tokens, config.d_model, generator=GENERATOR)
    ring = torch.zeros(2, 1, config.n_kv_heads, 2 * config.tokens, config.head_dim)
    return x, ring, Window(torch.arange(config.tokens), config.tokens)


@torch.no_grad()
def test_heads_are_gated_by_the_input_before_the_output_projection(
    config: WaypointConfig, frame: tuple[Tensor, Tensor, Window]
) -> None:
    x, ring, window = frame
    attention = SelfAttention(config)
    rotation = OrthoRoPE(config)(torch.tensor([[3]]), torch.float32)
    out, _ = attention(x, None, rotation, ring, window)

    q, k, v = (
        part.view(1, config.tokens, -1, config.head_dim).transpose(1, 2)
        for part in torch.split(x @ attention.qkv.weight.T, list(attention.widths), dim=-1)
    )
    heads = explicit_attention(rotate(unit_rms(q), rotation), rotate(unit_rms(k), rotation), v)
    assert attention.gate_proj is not None
    gate = torch.sigmoid(x[..., : config.n_heads] @ attention.gate_proj.weight.T)
    torch.testing.assert_close(out, (heads * gate[..., None]).flatten(2) @ attention.out_proj.weight.T)


@torch.no_grad()
def test_values_are_drawn_towards_those_of_layer_0_and_handed_on_raw(
    config: WaypointConfig, frame: tuple[Tensor, Tensor, Window]
) -> None:
    x, ring, window = frame
    attention = SelfAttention(dataclasses.replace(config, value_residual=True))
    assert attention.v_lamb is not None
    attention.v_lamb.fill_(0.25)
    rotation = OrthoRoPE(config)(torch.tensor([[0]]), torch.float32)
    raw = x @ attention.qkv.weight[-attention.widths[-1] :].T
    v_first = torch.randn(raw.shape, generator=GENERATOR)
    _, handed_on = attention(x, v_first, rotation, ring, window)
    torch.testing.assert_close(handed_on, raw)
    stored = ring[1, :, :, : config.tokens].transpose(1, 2).flatten(2)
    torch.testing.assert_close(stored, raw + 0.25 * (v_first - raw))


@torch.no_grad()
def test_padding_of_the_prompt_takes_its_share_of_the_softmax(config: WaypointConfig) -> None:
    attention = PromptAttention(config)
    x = torch.randn(1, config.tokens, config.d_model, generator=GENERATOR)
    prompt = torch.randn(1, 3, config.prompt_width, generator=GENERATOR)
    padded = torch.cat((prompt, torch.zeros(1, 5, config.prompt_width)), dim=1)
    q, k, v = (
        torch.unflatten(part, -1, (-1, config.head_dim)).transpose(1, 2)
        for part in (
            unit_rms(x) @ attention.q_proj.weight.T,
            *(unit_rms(prompt) @ attention.kv.weight.T).chunk(2, dim=-1),
        )
    )
    scores = torch.cat((unit_rms(q) @ unit_rms(k).mT / config.head_dim**0.5, torch.zeros(1, k.shape[1], 16, 5)), dim=-1)
    heads = scores.softmax(-1)[..., :3] @ v
    expected = heads.transpose(1, 2).flatten(2) @ attention.out_proj.weight.T
    torch.testing.assert_close(attention(x, attention.read(padded)), expected)
