"""The names that Waypoint 1.5 is published under, and the official package's own, which all implementations are given.

Where a file has a key in both, the package's own counts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.weights import Rewrite, Weights
from waypoint_parity.harness.families.waypoint.config import TransformerConfig

# Copies of the conditioning heads that no model reads.
_COPIES = ".cond_heads."
_HALF = 3  # matrices in each of the two conditioning heads


def canonical(weights: Weights, config: TransformerConfig) -> Weights:
    """The weights of a model of `config`, from files in either spelling, or in a mixture of both."""
    if not config.is_waypoint_15:
        return weights
    shapes = weights.shapes()
    rules = dict(_unpatchify(config)) if len(shapes.get("unpatchify.weight", ())) == 4 else {}
    for layer in range(config.n_layers):
        rules |= _block(f"transformer.blocks.{layer}.", shapes)
    used = {key: rule for key, rule in rules.items() if shapes.keys() >= {*rule.of}}
    superseded = {name for key, rule in used.items() if key in shapes and key not in rule.of for name in rule.of}
    made = {key: rule for key, rule in used.items() if key not in shapes or key in rule.of}
    unused = {key for key in shapes if _COPIES in key} | superseded | set(_other_biases(made, shapes))
    return replace(weights, rewrites=made, unused=frozenset(unused))


def biases(weights: Weights, config: TransformerConfig) -> dict[int, bool]:
    """Of every block that is published with two biases in its conditioning heads: whether they are equal."""
    files = replace(weights, rewrites={}, unused=frozenset(), ties={})
    held = dict(files.stream(".bias_in"))
    found = {}
    for layer in range(config.n_layers):
        block = f"transformer.blocks.{layer}."
        attention, mlp = (held.get(f"{block}{half}_cond_head.bias_in") for half in ("attn", "mlp"))
        if attention is not None and mlp is not None:
            found[layer] = torch.equal(attention, mlp)
    return found


def _unpatchify(config: TransformerConfig) -> Iterator[tuple[str, Rewrite]]:
    """A transposed convolution, as the linear layer that does the same."""
    yield "unpatchify.weight", Rewrite(("unpatchify.weight",), _as_linear)
    yield "unpatchify.bias", Rewrite(("unpatchify.bias",), partial(_repeated, times=config.patch[0] * config.patch[1]))


def _block(block: str, found: Collection[str]) -> Mapping[str, Rewrite]:
    """Key -> how it is made of published ones, of one block."""
    moved = {f"mlp.{name}.weight": f"dit_mlp.{name}.weight" for name in ("fc1", "fc2")}
    moved |= {
        f"cond_head.cond_proj.{number + first}.weight": f"{half}_cond_head.cond_proj.{number}.weight"
        for half, first in (("attn", 0), ("mlp", _HALF))
        for number in range(_HALF)
    }
    # One bias takes the place of two: the package takes the MLP's for all six matrices.
    half = "mlp" if f"{block}mlp_cond_head.bias_in" in found else "attn"
    moved |= {"cond_head.bias_in": f"{half}_cond_head.bias_in"}
    moved |= {"ctrl_mlpfusion.mlp.fc2.weight": "ctrl_mlpfusion.fc2.weight"}
    rules = {f"{block}{key}": Rewrite((f"{block}{name}",), _same) for key, name in moved.items()}
    halves = f"{block}ctrl_mlpfusion.fc1_x.weight", f"{block}ctrl_mlpfusion.fc1_c.weight"
    return rules | {f"{block}ctrl_mlpfusion.mlp.fc1.weight": Rewrite(halves, _side_by_side)}


def _other_biases(made: Mapping[str, Rewrite], found: Collection[str]) -> Iterator[str]:
    """The biases of the attention's half where the MLP's stands for both."""
    for rule in made.values():
        other = rule.of[0].replace("mlp_cond_head.bias_in", "attn_cond_head.bias_in")
        if other != rule.of[0] and other in found:
            yield other


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _as_linear(kernel: Tensor) -> Tensor:
    """[M,C,ph,pw] -> [C*ph*pw,M]."""
    return kernel.permute(1, 2, 3, 0).flatten(0, 2).contiguous()


def _repeated(bias: Tensor, times: int) -> Tensor:
    """[C] -> [C*ph*pw], each value `times` times in a row."""
    return bias.repeat_interleave(times)


def _side_by_side(x: Tensor, c: Tensor) -> Tensor:
    """Two [M,M] -> [M,2*M]."""
    return torch.cat([x, c], dim=1)
