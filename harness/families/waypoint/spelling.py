"""The names that Waypoint 1.5 is published under, and the official package's own, which all implementations are given.

Where a file has a key in both, the package's own counts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.weights import Rewrite, Weights
from waypoint_parity.harness.errors import listed
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
    rules = {key: rule for key, rule in rules.items() if shapes.keys() >= {*rule.of}}
    made = {key: rule for key, rule in rules.items() if key not in shapes or key in rule.of}
    superseded = {name for key in rules.keys() - made.keys() for name in rules[key].of}
    # One bias takes the place of two.
    spare = {key for key in shapes if key.endswith("_cond_head.bias_in")}.difference(
        *(rule.of for rule in made.values())
    )
    unused = superseded | spare | {key for key in shapes if _COPIES in key}
    return replace(weights, rewrites=made, unused=frozenset(unused))


def half_biases(weights: Weights, config: TransformerConfig) -> dict[int, tuple[Tensor, Tensor]]:
    """The two biases [M] of every block's conditioning head, the attention's and the MLP's, where both are published.

    The official package has one for all six matrices of a block; its diffusers form uses both, of three matrices each.
    """
    files = dict(replace(weights, rewrites={}, unused=frozenset(), ties={}).stream("_cond_head.bias_in"))
    found = {}
    for layer in range(config.n_layers):
        names = (f"transformer.blocks.{layer}.{half}_cond_head.bias_in" for half in ("attn", "mlp"))
        attention, mlp = map(files.get, names)
        if attention is not None and mlp is not None:
            found[layer] = attention, mlp
    return found


def bias_line(weights: Weights, config: TransformerConfig) -> str:
    """Which bias the conditioning heads of a checkpoint need, in a line for a terminal."""
    biases = half_biases(weights, config)
    apart = [str(layer) for layer, (attention, mlp) in biases.items() if not torch.equal(attention, mlp)]
    if not biases:
        told = "one for all conditioning matrices of a block"
    elif not apart:
        told = "two in every block's conditioning heads, which are equal"
    else:
        told = f"two in every block's conditioning heads, which differ in {listed(apart)}: the MLP's is taken for both"
    return f"biases       {told}"


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
    # The package takes the MLP's bias for all six matrices.
    half = "mlp" if f"{block}mlp_cond_head.bias_in" in found else "attn"
    moved |= {"cond_head.bias_in": f"{half}_cond_head.bias_in"}
    moved |= {"ctrl_mlpfusion.mlp.fc2.weight": "ctrl_mlpfusion.fc2.weight"}
    rules = {f"{block}{key}": Rewrite((f"{block}{name}",), _same) for key, name in moved.items()}
    halves = f"{block}ctrl_mlpfusion.fc1_x.weight", f"{block}ctrl_mlpfusion.fc1_c.weight"
    return rules | {f"{block}ctrl_mlpfusion.mlp.fc1.weight": Rewrite(halves, _side_by_side)}


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
