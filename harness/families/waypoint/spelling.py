"""The names that Waypoint 1.5 is published under, and the official package's own, which all implementations are given.

Where a file has a key in both, the package's own counts.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.weights import Rewrite, Shape, Weights
from waypoint_parity.harness.errors import listed
from waypoint_parity.harness.families.waypoint.config import TransformerConfig

# Copies of the conditioning heads that no model reads.
_COPIES = ".cond_heads."
_HALF = 3  # matrices in each of the two conditioning heads
_OWN_BIAS = "transformer.blocks.{}.cond_head.bias_in"


def canonical(weights: Weights, config: TransformerConfig) -> Weights:
    """The weights of a model of `config`, from files in either spelling, or in a mixture of both."""
    if not config.is_waypoint_15:
        return weights
    shapes = weights.shapes()
    rules = _rules(shapes, config)
    made = {key: rule for key, rule in rules.items() if key not in shapes or key in rule.of}
    superseded = {name for key in rules.keys() - made.keys() for name in rules[key].of}
    # One bias takes the place of two.
    biases = {key for key in shapes if key.endswith("_cond_head.bias_in")}
    spare = biases.difference(*(rule.of for rule in made.values()))
    unused = superseded | spare | {key for key in shapes if _COPIES in key}
    return replace(weights, rewrites=made, unused=frozenset(unused))


def _rules(shapes: Mapping[str, Shape], config: TransformerConfig) -> dict[str, Rewrite]:
    """Key -> how it is made of published ones that are there, and have the shapes that they are published in."""
    kernel = shapes.get("unpatchify.weight", ())
    rules = dict(_unpatchify(config)) if kernel[1:] == (config.channels, *config.patch) else {}
    square = (config.d_model, config.d_model)
    for layer in range(config.n_layers):
        block = _block(f"transformer.blocks.{layer}.", shapes)
        rules |= {
            key: rule
            for key, rule in block.items()
            if len(rule.of) == 1 or all(shapes.get(name) == square for name in rule.of)
        }
    return {key: rule for key, rule in rules.items() if shapes.keys() >= {*rule.of}}


def half_biases(weights: Weights, config: TransformerConfig) -> dict[int, tuple[Tensor, Tensor]]:
    """The two biases [M] of every block's conditioning head, the attention's and the MLP's, where both are published.

    The official package has one for all six matrices of a block; its diffusers form uses both, of three matrices each.
    """
    files = dict(weights.as_stored().stream("_cond_head.bias_in"))
    block = "transformer.blocks.{}.{}_cond_head.bias_in"
    names = {layer: [block.format(layer, half) for half in ("attn", "mlp")] for layer in range(config.n_layers)}
    return {layer: (files[attn], files[mlp]) for layer, (attn, mlp) in names.items() if files.keys() >= {attn, mlp}}


def told(weights: Weights, config: TransformerConfig) -> list[str]:
    """Which bias the conditioning heads of a checkpoint need, and what it holds in both spellings, a line each."""
    return [f"biases       {_of_biases(weights, config)}", *_of_both_spellings(weights, config)]


def _of_biases(weights: Weights, config: TransformerConfig) -> str:
    shapes = weights.as_stored().shapes()
    own = [layer for layer in range(config.n_layers) if _OWN_BIAS.format(layer) in shapes]
    if len(own) == config.n_layers:
        return "one for all conditioning matrices of a block"
    both = half_biases(weights, config)
    apart = [layer for layer, (attention, mlp) in both.items() if not torch.equal(attention, mlp)]
    single = [layer for layer in range(config.n_layers) if layer not in both and layer not in own]
    differ = f"differ in {_numbers(apart)}: the MLP's is taken for both" if apart else "are equal"
    said = [f"two in the conditioning heads of a block, which {differ}"]
    said += [f"one alone in {_numbers(single)}, taken for both"] if single else []
    return "; ".join([*said, *([f"the package's own in {_numbers(own)}"] if own else [])])


def _numbers(layers: Iterable[int]) -> str:
    return listed([str(layer) for layer in layers])


def _of_both_spellings(weights: Weights, config: TransformerConfig) -> list[str]:
    """What is there twice, and which of it differs."""
    stored = weights.as_stored()
    shapes = stored.shapes()
    twice = {key: rule for key, rule in _rules(shapes, config).items() if key in shapes and key not in rule.of}
    if not twice:
        return []
    named = {*twice}.union(*(rule.of for rule in twice.values()))
    held = {key: tensor for key, tensor in stored.stream() if key in named}
    made = {key: rule.make(*(held[name] for name in rule.of)) for key, rule in twice.items()}
    apart = [key for key, tensor in made.items() if not torch.equal(held[key], tensor)]
    differ = f"; they differ in {listed(apart)}" if apart else ", which are equal"
    return [f"spellings    {len(twice)} keys are there in both, of which the package's own count{differ}"]


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
