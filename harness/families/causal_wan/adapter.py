"""What adapters of causal Wan have in common: sites shown from hooks on a model's modules, and a chunk's passes.

Nothing is computed here. Names of sites are the official ones; an adapter says which module of its model shows which.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn, stack
from torch.utils.hooks import RemovableHandle

from waypoint_parity.harness.families.causal_wan.config import CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.sites import CLEAN, site_table
from waypoint_parity.harness.run.adapter import Pass, Site

# Sites of a block that its modules return as they are, below the names that the official code has for both.
_RETURNED = (
    *("norm1", "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.norm_q", "self_attn.norm_k", "self_attn"),
    *("norm3", "cross_attn.q", "cross_attn.norm_q", "cross_attn", "norm2", "ffn", ""),
)
_OUTSIDE = ("patch_embedding", "time_embedding", "time_projection", "text_embedding", "head")


class ChunkByChunk(ABC):
    """An adapter of a model with a rolling window; see harness.run.adapter.Adapter.

    Every site is a probe. A subclass calls `rotated` for queries, then keys, of a self-attention, and `attending` just
    before it attends, and `attending_text` so of the cross-attention; hooks do the rest. `at` is the pass in work, and
    `latents` how many a chunk has.
    """

    def __init__(self, geometry: CausalWanGeometry) -> None:
        self._geometry = geometry
        self._layers = range(geometry.transformer.num_layers)
        self._probes = {row.name: nn.Identity() for row in site_table(len(self._layers)).rows}
        self.at = Pass("")
        self._layer, self._rotations = 0, 0
        self._cache: dict[str, Any] = {}
        self._text: dict[str, Any] = {}
        self.latents = 0

    @abstractmethod
    def find(self, name: str) -> nn.Module:
        """The module that has an official name."""

    def sites(self) -> Mapping[str, Site]:
        """Every site of the family."""
        return {name: Site(probe) for name, probe in self._probes.items()}

    def show(self, site: str, value: Any) -> Any:
        """Show `value` at the probe of `site`; go on with what this returns."""
        return self._probes[site](value)

    def attach(self) -> Iterator[RemovableHandle]:
        """Hook every module that shows a site: those that bear the names now."""
        for name in _OUTSIDE:
            yield self.find(name).register_forward_hook(self._returns(name))
        yield self.find("text_embedding").register_forward_pre_hook(self._takes("input.prompt_emb"))
        for layer in self._layers:
            block = f"blocks.{layer}"
            yield self.find(f"{block}.norm1").register_forward_pre_hook(self._enters(layer))
            for name in _RETURNED:
                site = f"{block}.{name}".removesuffix(".")
                yield self.find(site if name != "self_attn" else f"{site}.o").register_forward_hook(self._returns(site))
            yield self.find(f"{block}.self_attn").register_forward_pre_hook(self._remembers)
            yield self.find(f"{block}.cross_attn").register_forward_pre_hook(self._remembers_text, with_kwargs=True)
            yield self.find(f"{block}.self_attn.o").register_forward_pre_hook(self._attended(layer))
            yield self.find(f"{block}.cross_attn.o").register_forward_pre_hook(
                self._takes(f"{block}.cross_attn.attended")
            )

    def rotated(self, x: Tensor) -> Tensor:
        """Show queries, then keys, of the self-attention in work: [1,N*T,H,D], told latent by latent."""
        name = ("q_rope", "k_rope")[self._rotations % 2]
        self._rotations += 1
        shown: Tensor = self.show(f"blocks.{self._layer}.self_attn.{name}", x.unflatten(1, (self.latents, -1)))
        return shown.flatten(1, 2)

    def attending(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Show the window [1,L,H,D] that the self-attention in work attends to."""
        tokens = self._cache["k"].shape[1] // self._geometry.slots
        window = stack([keys, values]).unflatten(2, (-1, tokens))
        if (shown := self.show(f"blocks.{self._layer}.self_attn.window", window)) is window:
            return keys, values
        for held, right in zip((keys, values), shown.flatten(2, 3), strict=True):
            held.copy_(right)
        return keys, values

    def attending_text(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Show keys and values [1,P,H,D] that the cross-attention in work attends to."""
        found = []
        for name, short, held in (("keys", "k", keys), ("values", "v", values)):
            shown = self.show(f"blocks.{self._layer}.cross_attn.{name}", held)
            if shown is not held:
                self._text[short] = shown
            found.append(shown)
        return found[0], found[1]

    def _returns(self, site: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that shows what a module returns, or the first of several values."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self.show(site, output[0]), *output[1:])
            if site == "patch_embedding":
                return self.show(site, output.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(output.shape)
            # Some tell the tokens of each latent apart behind the last norm.
            return (
                self.show(site, output.flatten(1, -2)).reshape(output.shape)
                if site == "head"
                else self.show(site, output)
            )

        return hook

    def _takes(self, site: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """A hook that shows the first argument of a module."""
        return lambda module, args: (self.show(site, args[0]), *args[1:])

    def _enters(self, layer: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._layer, self._rotations = layer, 0

        return hook

    def _remembers(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._cache = args[5]

    def _remembers_text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._text = kwargs["crossattn_cache"]

    def _attended(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """What the last projection takes, by when the cache has been written and its ends are told."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            attended = self.show(f"blocks.{layer}.self_attn.attended", args[0])
            name, cache = f"kv_cache.layers.{layer}", self._cache
            ends = stack([cache["global_end_index"], cache["local_end_index"]]).flatten()
            if (shown := self.show(f"{name}.ends", ends)) is not ends:
                for held, right in zip((cache["global_end_index"], cache["local_end_index"]), shown, strict=True):
                    held.fill_(int(right))
            if self.at.phase == CLEAN:
                # Behind its end a buffer may hold anything: a session before, or what memory happened to have.
                end = int(cache["local_end_index"])
                buffers = stack([cache["k"], cache["v"]])
                buffers[:, :, end:] = 0
                buffers = buffers.unflatten(2, (self._geometry.slots, -1))
                if (shown := self.show(f"{name}.kv", buffers)) is not buffers:
                    for held, right in zip((cache["k"], cache["v"]), shown.flatten(2, 3), strict=True):
                        held[:, :end] = right[:, :end]
            return (attended, *args[1:])

        return hook
