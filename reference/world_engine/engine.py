"""Building the official engine from a checkpoint that the harness has opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.reference.world_engine.package import Package


class Conditioning:
    """The model's noise conditioner and conditioning heads, which the package's patches replace by tables.

    A table holds the sigmas of one schedule, so that a session with a schedule of its own needs tables of its own.
    """

    def __init__(self, package: Package, model: Any, *, patched: bool) -> None:
        """`model`: the package's WorldModel, not yet patched."""
        self._package, self._model, self._patched = package, model, patched
        self._embedding = model.denoise_step_emb
        self._heads = [block.cond_head for block in model.transformer.blocks]

    def tabulate(self, sigmas: Tensor) -> None:
        """Let the package make its tables for `sigmas` [S+1]; nothing to do where it is to run unpatched.

        Raises UserError for sigmas that the package's tables cannot tell apart.
        """
        if not self._patched:
            return
        self._model.denoise_step_emb = self._embedding
        for block, head in zip(self._model.transformer.blocks, self._heads, strict=True):
            block.cond_head = head
        self._model.config.merge_with({"scheduler_sigmas": sigmas.tolist()})
        try:
            self._package.patches.patch_cached_noise_conditioning(self._model)
        except ValueError as error:
            raise UserError(
                "world_engine cannot make its tables for this schedule",
                found=f"{sigmas.tolist()}: {error}",
                expected="sigmas that differ in bf16",
                do="use another schedule, or leave +patched out",
            ) from error


def build_engine(
    package: Package, checkpoint: Checkpoint, numerics: Numerics, *, patched: bool
) -> tuple[Any, Conditioning]:
    """The package's WorldEngine around `checkpoint`, in the numerics asked for, and its model's conditioning.

    Its own constructor runs, but what that would fetch from the hub is handed to it instead: the config, the model, the
    autoencoder, and no prompt encoder. The raw modules stay as they are unless `patched`.
    """
    config = package.omegaconf.OmegaConf.create(model_config(checkpoint.geometry.transformer))
    model = package.model.WorldModel(config)
    model.load_state_dict(checkpoint.weights("transformer"), strict=True)
    conditioning = Conditioning(package, model, patched=patched)
    given: dict[str, Any] = {
        "WorldModel": _loader(model.requires_grad_(False), config),
        "InferenceAE": _loader(_load_autoencoder(package, checkpoint, numerics.device)),
        "PromptEncoder": nn.Identity,
    }
    if not patched:
        given["apply_inference_patches"] = lambda model: None
    with _substituted(package.engine, given):
        return package.engine.WorldEngine("", device=numerics.device, dtype=numerics.dtype), conditioning


def model_config(config: TransformerConfig) -> dict[str, Any]:
    """The config as the package reads it. Raises UserError for a geometry that the package cannot build."""
    if config.ctrl_conditioning is None:
        raise UserError(
            "world_engine has no model without control conditioning",
            found="ctrl_conditioning null",
            expected='ctrl_conditioning "mlp_fusion": the package fuses the controls in layer 0 whatever it says',
            do="compare other implementations on this checkpoint",
        )
    return {**config.to_json(), "ae_uri": ""}


def coder_configs(config: AutoencoderConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of encoder and decoder as the package reads them."""
    shared = {"channels": config.channels, "latent_channels": config.latent_channels}
    encoder = {
        "ch_0": config.encoder_ch_0,
        "ch_max": config.encoder_ch_max,
        "encoder_blocks_per_stage": list(config.encoder_blocks_per_stage),
        "skip_logvar": config.skip_logvar,
    }
    decoder = {
        "ch_0": config.decoder_ch_0,
        "ch_max": config.decoder_ch_max,
        "decoder_blocks_per_stage": list(config.decoder_blocks_per_stage),
    }
    return shared | encoder, shared | decoder


def _load_autoencoder(package: Package, checkpoint: Checkpoint, device: torch.device) -> Any:
    """The package's autoencoder, weight norm baked as the package does it, always in fp32.

    The golden bf16 session was decoded in fp32; the other implementations here do the same.
    """
    configs = (package.omegaconf.OmegaConf.create(config) for config in coder_configs(checkpoint.geometry.autoencoder))
    model = package.autoencoder.AutoEncoder(*configs)
    model.load_state_dict(checkpoint.weights("vae"), strict=True)
    package.inference_autoencoder.bake_weight_norm_(model)
    return package.inference_autoencoder.InferenceAE(model.requires_grad_(False), device=device, dtype=torch.float32)


def _loader(loaded: Any, config: Any = None) -> SimpleNamespace:
    """Stands where the engine's constructor loads a model by its hub id; answers with one that is loaded already."""
    return SimpleNamespace(load_config=lambda uri: config, from_pretrained=lambda uri, **options: loaded)


@contextmanager
def _substituted(module: ModuleType, names: dict[str, Any]) -> Iterator[None]:
    """`module` with other values under `names` while the context is open."""
    originals = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(originals)
