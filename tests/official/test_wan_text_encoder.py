"""The official text encoder of Wan 2.1 against transformers': one module against another, on small random weights."""

import importlib.util
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import waypoint_parity as wp
from waypoint_parity.harness.families.wan.names import UMT5
from waypoint_parity.reference.wan import package

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("wan") is None, reason=f"Wan2.1 is not importable; {package.TESTED.install}"
)
VOCABULARY, WIDTH, HIDDEN, HEADS, LAYERS, BUCKETS = 200, 48, 96, 4, 3, 32
TOKENS, PADDED = 11, 16


@pytest.fixture
def encoders() -> tuple[nn.Module, Any]:
    """Both with the same weights."""
    torch.manual_seed(0)
    official: nn.Module = package.text_encoder().T5Encoder(
        VOCABULARY, WIDTH, WIDTH, HIDDEN, HEADS, LAYERS, BUCKETS, shared_pos=False, dropout=0.0
    )
    config = transformers.UMT5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        relative_attention_num_buckets=BUCKETS,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    port = transformers.UMT5EncoderModel(config)
    weights = official.state_dict()
    port.load_state_dict({name: weights[_official(name)] for name in port.state_dict()})
    return official.eval(), port.eval()


def _official(name: str) -> str:
    for pattern, official in UMT5.items():
        name = re.sub(pattern, official, name)
    # The embedding has a second name there.
    return name.replace("shared.", "token_embedding.")


@pytest.fixture
def prompt() -> tuple[Tensor, Tensor]:
    """Token ids and mask, padded."""
    ids = torch.randint(2, VOCABULARY, (1, PADDED), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(PADDED)[None] < TOKENS
    return ids * mask, mask.long()


def compared(encoders: tuple[nn.Module, Any], prompt: tuple[Tensor, Tensor]) -> wp.Comparison:
    return wp.module_parity(*encoders, prompt, rename=UMT5)


def test_they_are_the_same_mathematics(encoders: tuple[nn.Module, Any], prompt: tuple[Tensor, Tensor]) -> None:
    comparison = compared(encoders, prompt)
    assert comparison.verdict is wp.Verdict.WITHIN_NOISE
    # Thirteen sites of a layer, the embedding, the last norm, and the whole.
    assert comparison.compared == comparison.expected == 3 * 13 + 3


def test_one_position_bias_for_every_layer_is_seen_in_the_second(
    encoders: tuple[nn.Module, Any], prompt: tuple[Tensor, Tensor]
) -> None:
    """As T5 has it, and UMT5 has not: the first layer is right."""
    first, *others = (block.layer[0].SelfAttention for block in encoders[1].encoder.block)
    for attention in others:
        attention.compute_bias = first.compute_bias
    comparison = compared(encoders, prompt)
    assert comparison.verdict is wp.Verdict.DIVERGED
    assert comparison.first is not None
    assert comparison.first.site.startswith("blocks.1.")
    assert comparison.worst is not None
    assert comparison.worst.site == "blocks.1.attn.o"
    diverged = [failed.site for failed in comparison.failures if failed.verdict is wp.Verdict.DIVERGED]
    assert diverged
    assert not any(site.startswith("blocks.0.") for site in diverged)
