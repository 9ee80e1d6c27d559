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


# Blocks of a mask have as many tokens; outside compiled code the package refuses other frames.
BLOCK = 128


def build_engine(
    package: Package, checkpoint: Checkpoint, numerics: Numerics, *, patched: bool
) -> tuple[Any, Conditioning]:
    """The package's WorldEngine around `checkpoint`, in the numerics asked for, and its model's conditioning.

    Its own constructor runs, but what that would fetch from the hub is handed to it instead: the config, the model, the
    autoencoder, and no prompt encoder. The raw modules stay as they are unless `patched`.
    """
    config = package.omegaconf.OmegaConf.create(model_config(checkpoint.geometry.transformer))
    if package.release.is_waypoint_15:
        config = package.omegaconf.OmegaConf.merge(package.base_model.MODEL_CONFIG_DEFAULTS, config)
    model = package.model.WorldModel(config)
    model.load_state_dict(checkpoint.weights("transformer"), strict=True)
    # Loaded before it is cast: what refuses a cast goes through the engine's dtype all the same.
    model.to(device=numerics.device, dtype=numerics.dtype).requires_grad_(False)
    conditioning = Conditioning(package, model, patched=patched)
    given: dict[str, Any] = {
        "WorldModel": _loader(model, config),
        "PromptEncoder": nn.Identity,
        **_autoencoder(package, checkpoint, numerics),
    }
    if not patched:
        given["apply_inference_patches"] = lambda model: None
    with _substituted(package.engine, given):
        engine = package.engine.WorldEngine("", device=numerics.device, dtype=numerics.dtype)
    if package.release.is_waypoint_15:
        # These sources make a float of it, by which an integer clock cannot be multiplied in place.
        engine.ts_mult = int(engine.ts_mult)
    return engine, conditioning


def model_config(config: TransformerConfig) -> dict[str, Any]:
    """The config as the package reads it. Raises UserError for a geometry that the package cannot build."""
    if config.is_waypoint_15:
        return _second_config(config)
    if config.ctrl_conditioning is None:
        raise UserError(
            "world_engine has no model without control conditioning",
            found="ctrl_conditioning null",
            expected='ctrl_conditioning "mlp_fusion": the package fuses the controls in layer 0 whatever it says',
            do="compare other implementations on this checkpoint",
        )
    return {**config.to_json(), "ae_uri": ""}


def _second_config(config: TransformerConfig) -> dict[str, Any]:
    if config.tokens_per_frame % BLOCK:
        raise UserError(
            f"world_engine hides the slots of a ring in blocks of {BLOCK} tokens",
            found=f"{config.tokens_per_frame} tokens per frame",
            expected=f"a multiple of {BLOCK}",
            do="compare other implementations on this checkpoint",
        )
    # The package asks whether the one is null, and the other.
    without = {} if config.ctrl_conditioning else {"ctrl_conditioning": None, "ctrl_conditioning_period": None}
    return {**config.to_json(), "ae_uri": "", **without}


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


def _autoencoder(package: Package, checkpoint: Checkpoint, numerics: Numerics) -> dict[str, Any]:
    """What the engine's constructor loads its autoencoder with."""
    if package.release.is_waypoint_15:
        taehv = _load_taehv(package, checkpoint, numerics)
        return {"get_ae": lambda uri, **options: taehv}
    return {"InferenceAE": _loader(_load_dcae(package, checkpoint, numerics.device))}


def _load_dcae(package: Package, checkpoint: Checkpoint, device: torch.device) -> Any:
    """The package's autoencoder of Waypoint 1, weight norm baked as the package does it, always in fp32."""
    configs = (package.omegaconf.OmegaConf.create(config) for config in coder_configs(checkpoint.geometry.autoencoder))
    model = package.autoencoder.AutoEncoder(*configs)
    model.load_state_dict(checkpoint.weights("vae"), strict=True)
    package.inference_autoencoder.bake_weight_norm_(model)
    return package.inference_autoencoder.InferenceAE(model.requires_grad_(False), device=device, dtype=torch.float32)


def _load_taehv(package: Package, checkpoint: Checkpoint, numerics: Numerics) -> Any:
    """The package's autoencoder of Waypoint 1.5, around a TAEHV as wide as the checkpoint's."""
    config, weights = checkpoint.geometry.autoencoder, checkpoint.weights("vae")
    model = package.taehv.TAEHV(None, patch_size=config.patch_size, latent_channels=config.latent_channels)
    # The class builds the published widths alone.
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            _widen(layer, weights[f"{name}.weight"])
    model.load_state_dict(weights, strict=True)
    return package.inference_autoencoder.ChunkedStreamingTAEHV(
        model.requires_grad_(False),
        auto_aspect_ratio=checkpoint.geometry.transformer.auto_aspect_ratio,
        device=numerics.device,
        dtype=numerics.dtype,
    )


def _widen(layer: nn.Conv2d, weight: Tensor) -> None:
    """Make room in a convolution for a `weight` [out,in,k,k]."""
    layer.out_channels, layer.in_channels = weight.shape[:2]
    layer.weight = nn.Parameter(torch.empty_like(weight))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty_like(weight[:, 0, 0, 0]))


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
