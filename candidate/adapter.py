"""Drives the native model for the harness: the only file here that knows the harness."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from harness.adapter import Controls, Numerics, Pass, Prompt, Site
from harness.checkpoint import Checkpoint
from torch import Tensor

from candidate import session
from candidate.autoencoder import Autoencoder
from candidate.blocks import Block
from candidate.config import AutoencoderConfig, WaypointConfig
from candidate.kv_cache import RingCache
from candidate.weights import load_autoencoder, load_waypoint


class CandidateAdapter:
    """The native implementation."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        geometry = _fields(WaypointConfig, checkpoint.transformer)
        model = load_waypoint(
            WaypointConfig(**geometry), checkpoint.transformer_weights(), numerics.dtype, numerics.device
        )
        codec = AutoencoderConfig(**_fields(AutoencoderConfig, checkpoint.autoencoder))
        autoencoder = load_autoencoder(codec, checkpoint.autoencoder_weights(), numerics.device)
        self.session = session.Session(model, autoencoder, compiled=numerics.compiled)

    def describe(self) -> dict[str, str]:
        """What identifies this implementation besides its numerics."""
        return {
            "version": f"native, torch {torch.__version__}",
            "attention": "scaled_dot_product_attention over visible slots, grouped queries folded",
            "weights": "merged QKV, split fusion, shared conditioning heads, baked weight norm",
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site, by its official name."""
        run = self.session
        sites = {f"input.{name}": Site(probe) for name, probe in run.inputs.items()}
        sites |= {
            "denoise_step_emb": Site(run.denoise_step_emb),
            "ctrl_emb": Site(run.ctrl_emb),
            "patchify": Site(run.model.patchify),
            "out_norm": Site(run.model.out_norm),
            "velocity": Site(run.velocity),
            "latent": Site(run.latent),
            "frame": Site(run.autoencoder.decoder.frame),
        }
        for layer, (block, cache) in enumerate(zip(run.model.blocks, run.rings, strict=True)):
            sites |= {f"transformer.blocks.{layer}{name}": site for name, site in _block_sites(block).items()}
            sites |= {f"kv_cache.layers.{layer}.{name}": site for name, site in self._cache_sites(cache).items()}
        return sites | _autoencoder_sites(run.autoencoder)

    def _cache_sites(self, cache: RingCache) -> dict[str, Site]:
        """The sites of one layer's ring; its own layout becomes the official one by the clock of the session."""
        return {
            "kv": Site(cache.kv, lambda ring: cache.official_kv(ring, self.session.clock)),
            "written": Site(cache.written),
        }

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written."""
        given = session.Prompt(prompt.embedding, prompt.pad_mask) if prompt else None
        return _announce(self.session.start(given, sigmas))

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give the next frame."""
        return _announce(self.session.append_image(image))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate the next frame."""
        given = session.Controls(controls.button, controls.mouse, controls.scroll)
        return _announce(self.session.generate(noise, given))


def _announce(steps: Iterator[session.Step]) -> Iterator[Pass]:
    """The steps in the harness's terms, each still announced before it runs."""
    for step in steps:
        yield Pass(step.phase, step.number, step.sigma)


def _fields(native: type, given: Any) -> dict[str, Any]:
    """The fields that a native config takes over from the harness's one of the same kind."""
    return {field.name: getattr(given, field.name) for field in dataclasses.fields(native)}


def _block_sites(block: Block) -> dict[str, Site]:
    """The sites of one block, by what follows its name."""
    attn = block.attn
    modules = {
        ".cond_head": block.cond_head,
        ".attn.q_proj": attn.q_proj,
        ".attn.k_proj": attn.k_proj,
        ".attn.v_proj": attn.v_proj,
        ".attn.q_rope": attn.q_rope,
        ".attn.k_rope": attn.k_rope,
        ".attn.gate_proj": attn.gate_proj,
        ".attn": attn.out_proj,
        ".prompt_cross_attn": block.prompt_cross_attn,
        ".ctrl_mlpfusion": block.ctrl_mlpfusion,
        ".mlp": block.mlp,
        "": block.out,
    }
    return {name: Site(module) for name, module in modules.items() if module is not None}


def _autoencoder_sites(autoencoder: Autoencoder) -> dict[str, Site]:
    """The sites of the encoder and the decoder."""
    sites: dict[str, Site] = {}
    for name, half in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder)):
        sites |= {f"{name}.conv_in": Site(half.conv_in), f"{name}.conv_out": Site(half.conv_out)}
        for part in ("blocks", "residuals"):
            sites |= {f"{name}.{part}.{i}": Site(module) for i, module in enumerate(getattr(half, part))}
    return sites
