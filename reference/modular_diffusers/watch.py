"""Watching a pipeline from outside: hooks on its transformer and decoder tell the passes, and show what goes through.

A pass is told by the noise level that the transformer is called with: above 0 the pipeline denoises; at 0 it writes the
cache, of the seed image where nothing has been denoised yet, else of the frame.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import matching_sites
from waypoint_parity.harness.families.waypoint.config import TransformerConfig, WaypointGeometry
from waypoint_parity.harness.run.adapter import Pass, Site

_CONTROLS = ("button", "mouse")
_ARGUMENTS = ("x", "sigma", "frame_timestamp", *_CONTROLS, "scroll", "kv_cache")
_INPUTS = ("noise", "image", "prompt_emb", "prompt_pad_mask", "button", "mouse", "scroll", "sigma", "timestamp")


class Watch:
    """The probes and hooks of one pipeline. `announce` is called with every pass that is about to run.

    Modules that bear a site's name are watched themselves; where such a module returns several tensors, they are
    brought to the site's layout, and can be seen but not replaced. Neither can the latent, which no module returns: it
    is what the next pass begins with.
    """

    def __init__(self, transformer: Any, vae: Any, transformer_config: TransformerConfig) -> None:
        self._transformer, self._vae = transformer, vae
        self._signature = inspect.signature(transformer.forward)
        self._check()
        self._layers = range(transformer_config.n_layers)
        names = [*(f"input.{name}" for name in _INPUTS), "velocity", "latent", "frame"]
        names += [f"kv_cache.layers.{layer}.{part}" for layer in self._layers for part in ("written", "kv")]
        self._probes = {name: nn.Identity() for name in names}
        self._rotated: list[str] = []
        self._step = 0
        self._seeding = self._denoising = False
        self.announce: Callable[[Pass], None] = lambda at: None
        self._attach()

    def sites(self, geometry: WaypointGeometry) -> dict[str, Site]:
        """Every site of these configs that the pipeline's modules show."""
        found = {**matching_sites(self._transformer, geometry), **matching_sites(self._vae, geometry)}
        watched = {name: Site(site.module, _laid_out) for name, site in found.items()}
        return watched | {name: Site(probe) for name, probe in self._probes.items()}

    def begin(self, *, seeding: bool) -> None:
        """A call of the pipeline begins; `seeding`: it is given an image."""
        self._step, self._seeding, self._denoising = 0, seeding, False

    def show(self, site: str, value: Tensor) -> Tensor:
        """Show `value` at the probe of `site`; go on with what this returns."""
        shown: Tensor = self._probes[site](value)
        return shown

    def _check(self) -> None:
        lacking = [name for name in _ARGUMENTS if name not in self._signature.parameters]
        lacking += [] if isinstance(getattr(self._vae, "decoder", None), nn.Module) else ["vae.decoder"]
        if lacking:
            raise UserError(
                "the pipeline's models are not Waypoint's",
                found=f"no {', '.join(lacking)}",
                expected=f"a transformer called with {', '.join(_ARGUMENTS)}, and an autoencoder with a decoder",
                do="name another repository or revision",
            )

    def _attach(self) -> None:
        self._transformer.register_forward_pre_hook(self._before_pass, with_kwargs=True)
        self._transformer.register_forward_hook(self._after_pass, with_kwargs=True)
        self._vae.decoder.register_forward_pre_hook(lambda module, inputs: self.announce(Pass("decode")))
        rotations: dict[nn.Module, None] = {}
        for layer, block in enumerate(self._transformer.transformer.blocks):
            if isinstance(rope := getattr(block.attn, "rope", None), nn.Module):
                rotations[rope] = None
                self._expect_rotations(block.attn, f"transformer.blocks.{layer}.attn")
        for rope in rotations:
            rope.register_forward_hook(lambda module, inputs, rotated: self.show(self._rotated.pop(0), rotated))

    def _expect_rotations(self, attn: nn.Module, name: str) -> None:
        """One rotation serves all layers; each layer rotates its queries, then its keys."""
        sites = [f"{name}.q_rope", f"{name}.k_rope"]
        self._probes |= {site: nn.Identity() for site in sites}
        attn.register_forward_pre_hook(lambda module, inputs: self._rotated.__setitem__(slice(None), sites))

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        self._announce(given)
        given["sigma"] = self.show("input.sigma", given["sigma"])
        given["frame_timestamp"] = self.show("input.timestamp", given["frame_timestamp"])
        return (), given

    def _announce(self, given: dict[str, Any]) -> None:
        """Tell which pass this is, and show what it shares with the passes before and after it."""
        sigma = float(given["sigma"].flatten()[0])
        if self._denoising:
            self.show("latent", given["x"])
        self._denoising = sigma > 0
        if self._denoising:
            self._seeding = False
            self.announce(Pass("denoise", self._step, sigma))
            if self._step == 0:
                given["x"] = self.show("input.noise", given["x"])
                self._show_controls(given)
            self._step += 1
        elif self._seeding:
            self.show("latent", given["x"][:, 0])
            self._show_controls(given)
        else:
            self.announce(Pass("cache", sigma=0.0))

    def _show_controls(self, given: dict[str, Any]) -> None:
        """As the transformer takes them, [1,1,n]; of the scroll it takes only the sign."""
        for name in (*_CONTROLS, "scroll"):
            given[name] = self.show(f"input.{name}", given[name].view(-1)).view(1, 1, -1)

    def _after_pass(self, module: nn.Module, args: Any, kwargs: dict[str, Any], velocity: Tensor) -> Tensor | None:
        if self._denoising:
            return self.show("velocity", velocity)
        for layer in self._layers:
            cache = kwargs["kv_cache"].layers[layer]
            self.show(f"kv_cache.layers.{layer}.written", cache.written)
            self.show(f"kv_cache.layers.{layer}.kv", cache.kv)
        return None


def _laid_out(output: Tensor | tuple[Tensor, ...], inputs: object) -> Tensor:
    """A module's output as its site is laid out: the six vectors of a conditioning head stacked, else the first."""
    if isinstance(output, Tensor):
        return output
    return torch.stack(output) if len(output) == 6 else output[0]
