"""Implementations whose faults a rollout carries on, each made from the reference."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import Numerics, Site
from waypoint_parity.reference.eager.adapter import EagerAdapter

LOCAL = 1  # the tiny checkpoint's local layer, with a ring of two frames
STALE_FRAME = 2  # the first frame that replaces a slot of it


class Patched(EagerAdapter):
    """The reference with something done to what its sites show."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.layers = range(checkpoint.geometry.transformer.n_layers)
        self.patch({name: site.module for name, site in self.sites().items()})

    def patch(self, modules: Mapping[str, nn.Module]) -> None:
        """Register hooks on the modules of the sites."""

    @property
    def clock(self) -> int:
        """The frame in work."""
        return self._session.clock


class Fading(Patched):
    """Its caches lose a thousandth of every value in every frame."""

    def patch(self, modules: Mapping[str, nn.Module]) -> None:
        for layer in self.layers:
            modules[f"kv_cache.layers.{layer}.kv"].register_forward_hook(lambda module, inputs, kv: kv * 0.999)


class StaleOnce(Patched):
    """In one frame its local layer sees the slot that the frame is about to replace."""

    def patch(self, modules: Mapping[str, nn.Module]) -> None:
        def show_all(module: nn.Module, inputs: object, mask: Tensor) -> Tensor:
            return torch.ones_like(mask) if self.clock == STALE_FRAME else mask

        modules[f"kv_cache.layers.{LOCAL}.visible"].register_forward_hook(show_all)


class OtherSlot(Patched):
    """From the second frame on its local ring has its two slots exchanged."""

    def patch(self, modules: Mapping[str, nn.Module]) -> None:
        def exchange(module: nn.Module, inputs: object, kv: Tensor) -> Tensor:
            if self.clock != 1:
                return kv
            first, second, tail = kv.chunk(3, dim=3)
            return torch.cat([second, first, tail], dim=3)

        modules[f"kv_cache.layers.{LOCAL}.kv"].register_forward_hook(exchange)


class Blind(EagerAdapter):
    """Cannot tell what a pass attends to."""

    def sites(self) -> Mapping[str, Site]:
        return {name: site for name, site in super().sites().items() if not name.endswith(".visible")}


class Sealed(EagerAdapter):
    """Shows its caches in a layout from which there is no way back."""

    def sites(self) -> Mapping[str, Site]:
        sites = super().sites()
        sealed = {
            name: Site(site.module, layout=lambda kv, _: kv) for name, site in sites.items() if name.endswith(".kv")
        }
        return {**sites, **sealed}
