"""What a checkpoint or a scenario holds, in lines for a terminal."""

import math

from harness.checkpoint import Checkpoint, Weights
from harness.scenario import Scenario


def checkpoint_lines(checkpoint: Checkpoint) -> list[str]:
    """Identity, inventory and geometry of a checkpoint whose keys and shapes were found right."""
    config = checkpoint.transformer
    latent = " x ".join(str(size) for size in config.latent_shape)
    rings = [f"{layer}: {config.ring_frames(layer)}/{config.dilation(layer)}" for layer in range(config.n_layers)]
    return [
        f"checkpoint   {checkpoint.origin}",
        f"digest       {checkpoint.digest}",
        f"transformer  {_inventory(checkpoint.transformer_files)}",
        f"autoencoder  {_inventory(checkpoint.autoencoder_files)}",
        f"geometry     {config.n_layers} layers of width {config.d_model}, {config.n_heads} query and "
        f"{config.n_kv_heads} key/value heads of width {config.head_dim}, {config.tokens_per_frame} tokens a frame, "
        f"latent {latent}",
        f"rings        layer: frames/dilation  {', '.join(rings)}",
        f"schedule     {', '.join(f'{sigma:.6g}' for sigma in config.scheduler_sigmas)}",
        "keys, shapes and configs fit",
    ]


def scenario_lines(scenario: Scenario) -> list[str]:
    """Identity and tensors of a scenario."""
    tensors = [
        f"  {name:16} {list(tensor.shape)!s:28} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in scenario.tensors.items()
    ]
    return [
        f"scenario {scenario.name}: {scenario.frames} frames, seed {scenario.seed}, noise {scenario.noise_policy}",
        f"  digest           {scenario.digest}",
        *tensors,
    ]


def _inventory(weights: Weights) -> str:
    shapes = weights.shapes()
    return f"{len(shapes)} tensors, {sum(math.prod(shape) for shape in shapes.values()):,} parameters"
