"""Taps: hooks that lead what passes through the package's modules to probes bearing the sites' names.

A module whose output is a site as it stands is watched itself. Taps serve the others: outputs that are tuples, the
rotation that all layers share, a merged projection, inputs, and modules that the package replaces. A tap goes on with
what its probe returns, so that a value exchanged at a probe is the value that the package computes with.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from waypoint_parity.harness.run.adapter import Site

Probe = Callable[[Tensor], Tensor]

# The buffers of one layer's cache, in the order in which they are shown.
CACHE = ("written", "kv")


# What a session shows between the passes, whether or not the passes are compiled.
_OF_A_SESSION = (
    *(f"input.{name}" for name in ("prompt_emb", "prompt_pad_mask", "image", "button", "mouse", "scroll", "noise")),
    "latent",
    "frame",
)
_OF_A_PASS = ("input.sigma", "input.timestamp", "denoise_step_emb", "velocity")


class Taps:
    """The probes of one engine, by site name, and the hooks that feed them."""

    def __init__(self, engine: Any, *, inside: bool) -> None:
        """`engine`: the package's, its model patched or not. `inside`: tap its modules; compiled passes forbid it."""
        self._model = model = engine.model
        # What the clock of the rings is multiplied by for the rotation.
        self._ratio: int = getattr(engine, "ts_mult", 1)
        self._inside = inside
        self._layers = [f"transformer.blocks.{layer}" for layer in range(len(model.transformer.blocks))]
        self._probes: dict[str, nn.Identity] = {}
        self._watched: dict[str, nn.Module] = {}
        self._conditioning: list[RemovableHandle] = []
        self._rotating = ""
        # The model's output is a site while it denoises, and not when it is run for its keys and values.
        self.denoising = False
        self._declare(*_OF_A_SESSION)
        self._declare(*(f"kv_cache.layers.{layer}.{part}" for layer in range(len(self._layers)) for part in CACHE))
        if inside:
            self._tap_model()

    def sites(self) -> dict[str, Site]:
        """Every site that is tapped or watched."""
        modules: Mapping[str, nn.Module] = self._watched | self._probes
        return {name: Site(module) for name, module in modules.items()}

    def show(self, site: str, value: Tensor) -> Tensor:
        """Show `value` at the probe of `site`; go on with what this returns."""
        shown: Tensor = self._probes[site](value)
        return shown

    def show_visible(self, layer: int, tokens: Tensor) -> Tensor:
        """Show which `tokens` [L+T] bool a pass sees of the ring of `layer`; go on with what this returns."""
        return self.show(f"kv_cache.layers.{layer}.visible", tokens)

    def tap_masks(self) -> None:
        """From now on `show_visible` is called."""
        self._declare(*(f"kv_cache.layers.{layer}.visible" for layer in range(len(self._layers))))

    def tap_conditioning(self) -> None:
        """Tap the noise conditioner and the conditioning heads; again whenever the package has replaced them."""
        if not self._inside:
            return
        for handle in self._conditioning:
            handle.remove()
        self._conditioning = [_lead(self._model.denoise_step_emb, self._probes["denoise_step_emb"])]
        for name, block in zip(self._layers, self._model.transformer.blocks, strict=True):
            self._conditioning.append(_lead(block.cond_head, _stacked(self._probes[f"{name}.cond_head"])))

    def _declare(self, *sites: str) -> None:
        self._probes |= {site: nn.Identity() for site in sites}

    def _tap_model(self) -> None:
        model = self._model
        self._declare(*_OF_A_PASS)
        self._watched |= {name: getattr(model, name) for name in ("ctrl_emb", "patchify", "out_norm")}
        model.register_forward_pre_hook(self._show_inputs, with_kwargs=True)
        _lead(model, lambda velocity: self.show("velocity", velocity) if self.denoising else velocity)
        for name, block in zip(self._layers, model.transformer.blocks, strict=True):
            self._tap_block(name, block)
        if angles := getattr(model.transformer, "rope_angles", None):
            # Waypoint 1.5 computes cosines and sines in every pass, which all layers share.
            self._declare("transformer.rope_angles")
            _lead(angles, _stacked(self._probes["transformer.rope_angles"]))
        # Of Waypoint 1 one for all layers, until the package's patches give each its own.
        for rope in {block.attn.rope for block in model.transformer.blocks}:
            _lead(rope, self._show_rotated)

    def _tap_block(self, name: str, block: Any) -> None:
        attn = block.attn
        self._declare(name, f"{name}.cond_head", f"{name}.attn", f"{name}.attn.q_rope", f"{name}.attn.k_rope")
        _lead(block, _first(self._probes[name]))
        _lead(attn, _first(self._probes[f"{name}.attn"]))
        attn.register_forward_pre_hook(lambda module, inputs: self._expect_rotation(f"{name}.attn.q_rope"))
        self._tap_projections(f"{name}.attn", attn)
        parts = {part: getattr(block, part) for part in ("mlp", "prompt_cross_attn", "ctrl_mlpfusion")}
        parts["attn.gate_proj"] = getattr(attn, "gate_proj", None)
        self._watched |= {f"{name}.{part}": module for part, module in parts.items() if module is not None}

    def _tap_projections(self, name: str, attn: Any) -> None:
        parts = ("q_proj", "k_proj", "v_proj")
        if not hasattr(attn, "qkv_proj"):
            self._watched |= {f"{name}.{part}": getattr(attn, part) for part in parts}
            return
        self._declare(*(f"{name}.{part}" for part in parts))
        probes = [self._probes[f"{name}.{part}"] for part in parts]
        _lead(attn.qkv_proj, _split(probes, [attn.q_out, attn.kv_out, attn.kv_out]))

    def _show_inputs(
        self, model: nn.Module, inputs: tuple[Tensor, Tensor], named: dict[str, Any]
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        x, sigma = inputs
        sigma = self.show("input.sigma", sigma)
        # Waypoint 1.5 has a clock for the rings and one for the rotation.
        clock = named.get("frame_idx", named["frame_timestamp"])
        if (shown := self.show("input.timestamp", clock)) is clock:
            return (x, sigma), named
        clocks = {"frame_idx": shown} if "frame_idx" in named else {}
        return (x, sigma), named | clocks | {"frame_timestamp": shown * self._ratio}

    def _expect_rotation(self, site: str) -> None:
        self._rotating = site

    def _show_rotated(self, rotated: Tensor) -> Tensor:
        """The rotation is called for the queries of a layer, then for its keys."""
        shown = self.show(self._rotating, rotated)
        self._expect_rotation(self._rotating.replace("q_rope", "k_rope"))
        return shown


def _lead(module: nn.Module, through: Callable[[Any], Any]) -> RemovableHandle:
    """Let the package go on with what `through` makes of the output of `module`."""
    return module.register_forward_hook(lambda hooked, inputs, output: through(output))


def _first(probe: Probe) -> Callable[[tuple[Tensor, Any]], tuple[Tensor, Any]]:
    """Through a probe, the output of a module that hands the first layer's values on beside it."""
    return lambda outputs: (probe(outputs[0]), outputs[1])


def _stacked(probe: Probe) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Through a probe as one: of the six vectors [1,1,M] of a conditioning head [6,1,1,M]; of cosines and sines."""
    return lambda vectors: probe(torch.stack(vectors)).unbind()


def _split(probes: list[nn.Identity], widths: list[int]) -> Callable[[Tensor], Tensor]:
    """Through three probes, the queries, keys and values that one product gives."""
    return lambda merged: torch.cat(
        [probe(part) for probe, part in zip(probes, torch.split(merged, widths, dim=-1), strict=True)], dim=-1
    )
