"""Loading the port: FastVideo's own classes, filled with the weights of a checkpoint."""

import re
from dataclasses import dataclass
from typing import Any

import torch

from waypoint_parity.candidate.fastvideo import source
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.sources import UNTESTED

# Fixed in the port, whatever the checkpoint's head width.
CROSS_ATTENTION_HEAD_WIDTH = 64
# The names of weights: official pattern -> the port's, in the style of its `param_names_mapping`. Others are the same.
RENAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.mlp\.fc1\."), ".mlp.fc_in."),
    (re.compile(r"\.mlp\.fc2\."), ".mlp.fc_out."),
)


@dataclass(frozen=True)
class Port:
    """A loaded port: its world model, its empty cache and its autoencoder, on the device and in the dtype of a run."""

    model: Any
    cache: Any
    autoencoder: Any
    version: str


def load_port(checkpoint: Checkpoint, numerics: Numerics) -> Port:
    """Load the port.

    Raises UserError where it is not installed, where its sources are not those of the tested revision (unless the
    option `untested-revision` is given), and for a geometry that it cannot run.
    """
    package = source.TESTED.package(source.PACKAGE)
    version = source.TESTED.version(package, untested=UNTESTED in numerics.options)
    check_geometry(checkpoint.geometry.transformer)
    with source.imported(package) as fastvideo:
        config = fastvideo.transformer.WaypointConfig()
        config.update_model_arch(checkpoint.geometry.transformer.to_json())
        model = fastvideo.transformer.WaypointWorldModel(config, {})
        model.load_state_dict({renamed(key): tensor for key, tensor in checkpoint.weights("transformer").items()})
        # In this order, as in the port's pipeline: the conditioner computes in fp32 with values rounded to the dtype.
        model.to(device=numerics.device, dtype=numerics.dtype).denoise_step_emb.to(dtype=torch.float32)
        cache = fastvideo.transformer.WaypointKVCache(config, batch_size=1, dtype=numerics.dtype).to(numerics.device)
        codec_config = fastvideo.autoencoder.WorldEngineVAEConfig()
        codec_config.update_model_arch(checkpoint.geometry.autoencoder.to_json())
        autoencoder = fastvideo.autoencoder.WorldEngineVAE(codec_config)
        autoencoder.load_state_dict(checkpoint.weights("vae"))
        return Port(
            model=model.eval(),
            cache=cache,
            autoencoder=autoencoder.to(device=numerics.device, dtype=torch.float32).eval(),
            version=f"{fastvideo.release}, {version}",
        )


def renamed(key: str) -> str:
    """The port's name of the world model's weight `key`; the autoencoder's weights keep theirs."""
    for pattern, replacement in RENAMES:
        key = pattern.sub(replacement, key)
    return key


def check_geometry(config: TransformerConfig) -> None:
    """Raise UserError for a geometry that the port refuses or cannot build."""
    width = CROSS_ATTENTION_HEAD_WIDTH
    for holds, rule, found in (
        (not config.value_residual, "no value_residual", "value_residual: true"),
        (config.ctrl_conditioning is not None, "control conditioning", "ctrl_conditioning: null"),
        (config.prompt_conditioning is not None, "a prompt", "prompt_conditioning: null"),
        (
            (config.prompt_embedding_dim or 0) % width == 0,
            f"a prompt width that is a multiple of {width}, at which its cross-attention's head width is fixed",
            f"prompt_embedding_dim: {config.prompt_embedding_dim}",
        ),
    ):
        if not holds:
            raise UserError(
                "FastVideo's Waypoint port cannot run this checkpoint",
                found=found,
                expected=rule,
                do="compare it on a checkpoint of a geometry that it supports",
            )
