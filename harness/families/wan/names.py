"""Names of weights and modules: the official ones, which are ours, and those of diffusers. One table for both ways.

A `*` stands for one part of a name, the same on both sides, in order.
"""

import re
from collections.abc import Iterable, Mapping

from waypoint_parity.harness.errors import UserError, listed

TRANSFORMER = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("text_embedding", "condition_embedder.text_embedder"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_embedding", "condition_embedder.time_embedder"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("blocks.*.self_attn.o", "blocks.*.attn1.to_out.0"),
    ("blocks.*.cross_attn.o", "blocks.*.attn2.to_out.0"),
    *((f"blocks.*.self_attn.{name}", f"blocks.*.attn1.to_{name}") for name in "qkv"),
    *((f"blocks.*.cross_attn.{name}", f"blocks.*.attn2.to_{name}") for name in "qkv"),
    ("blocks.*.self_attn", "blocks.*.attn1"),
    ("blocks.*.cross_attn", "blocks.*.attn2"),
    # The affine norm stands before the cross-attention on both sides, and is the third here, the second there.
    ("blocks.*.norm3", "blocks.*.norm2"),
    ("blocks.*.norm2", "blocks.*.norm3"),
    ("blocks.*.ffn.0", "blocks.*.ffn.net.0.proj"),
    ("blocks.*.ffn.2", "blocks.*.ffn.net.2"),
    ("blocks.*.modulation", "blocks.*.scale_shift_table"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
)
_RESIDUAL = (
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)
# Three blocks and a step up in size, four times; without the step the last time.
_UP = {
    f"decoder.upsamples.{4 * stage + place}": f"decoder.up_blocks.{stage}."
    + (f"resnets.{place}" if place < 3 else "upsamplers.0")
    for stage in range(4)
    for place in range(4 if stage < 3 else 3)
}
_MIDDLE = {"middle.0": "mid_block.resnets.0", "middle.1": "mid_block.attentions.0", "middle.2": "mid_block.resnets.1"}
_BLOCKS = (
    *((f"{coder}.{ours}", f"{coder}.{theirs}") for coder in ("encoder", "decoder") for ours, theirs in _MIDDLE.items()),
    ("encoder.downsamples.*", "encoder.down_blocks.*"),
    *_UP.items(),
)
AUTOENCODER = (
    ("conv1", "quant_conv"),
    ("conv2", "post_quant_conv"),
    *(
        (f"{coder}.{ours}", f"{coder}.{theirs}")
        for coder in ("encoder", "decoder")
        for ours, theirs in (("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out"))
    ),
    *((f"{block}.{ours}", f"{other}.{theirs}") for block, other in _BLOCKS for ours, theirs in _RESIDUAL),
    *_BLOCKS,
)
# The text encoder of transformers (UMT5EncoderModel) by the official names, as `module_parity(rename=...)` takes them.
UMT5 = {
    r"^encoder\.embed_tokens": "token_embedding",
    r"^encoder\.block\.(\d+)": r"blocks.\1",
    r"layer\.0\.layer_norm": "norm1",
    r"layer\.1\.layer_norm": "norm2",
    r"layer\.0\.SelfAttention\.relative_attention_bias": "pos_embedding.embedding",
    r"layer\.0\.SelfAttention": "attn",
    r"layer\.1\.DenseReluDense\.wi_0": "ffn.gate.0",
    r"layer\.1\.DenseReluDense\.wi_1": "ffn.fc1",
    r"layer\.1\.DenseReluDense\.wo": "ffn.fc2",
    r"layer\.1\.DenseReluDense": "ffn",
    r"^encoder\.final_layer_norm": "norm",
    # Does nothing in evaluation, and the official feed-forward calls one twice: no partner of it.
    r"\.dropout$": ".dropped",
}
TABLES: Mapping[str, tuple[tuple[str, str], ...]] = {"transformer": TRANSFORMER, "vae": AUTOENCODER}


def to_diffusers(component: str, name: str) -> str:
    """What diffusers calls a weight or a module of ours. What has the same name in both is left."""
    return _renamed(name, TABLES[component])


def to_official(component: str, name: str) -> str:
    """What the official code calls a weight or a module of diffusers."""
    return _renamed(name, [(theirs, ours) for ours, theirs in TABLES[component]])


def official_of(component: str, names: Iterable[str]) -> dict[str, str]:
    """Official name -> name of diffusers. Raises UserError where two of theirs are one of ours."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(to_official(component, name), name)) != name:
            raise UserError(
                f"{component}: two weights have one official name",
                found=listed([other, name]),
                expected="the names of diffusers, each once",
                do="save the checkpoint again",
            )
    return found


def _renamed(name: str, table: Iterable[tuple[str, str]]) -> str:
    """By the first rule that fits the whole name, or its beginning up to a dot."""
    for old, new in table:
        pattern = re.escape(old).replace(r"\*", r"(\d+)")
        if found := re.match(rf"{pattern}(?=\.|$)", name):
            return new.replace("*", "{}").format(*found.groups()) + name[found.end() :]
    return name
