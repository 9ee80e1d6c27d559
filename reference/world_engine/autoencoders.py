"""The package's two autoencoders: what a session asks of either, and where to watch it."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.adapter import matching_sites
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.run.adapter import Site


class Autoencoder(Protocol):
    """Pictures <-> latent, by the engine's own autoencoder.

    decodes_seed: whether a session decodes the latent of its image, for a decoder that remembers it
    claims: what a run says of it
    """

    decodes_seed: bool
    claims: Mapping[str, str]

    def encode(self, image: Tensor) -> Tensor:
        """`image` uint8 -> latent [1,C,h*ph,w*pw]."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,h*ph,w*pw] -> `frame` uint8."""
        ...

    def sites(self, geometry: WaypointGeometry) -> dict[str, Site]:
        """Every site of encoder and decoder."""
        ...


class Dcae:
    """Waypoint 1's. The golden bf16 session was decoded in fp32; the other implementations here do the same."""

    decodes_seed = False
    claims: Mapping[str, str] = {"autoencoder": "float32, weight norm baked, eager, no autocast"}

    def __init__(self, vae: Any) -> None:
        """`vae`: the engine's InferenceAE."""
        self._vae = vae
        # Without the decorators of the package, which compile it and on a GPU round it to bf16.
        self._decode: Callable[[Any, Tensor], Tensor] = inspect.unwrap(type(vae).decode)

    def encode(self, image: Tensor) -> Tensor:
        """`image` [360,640,3] uint8 -> latent [1,C,h*ph,w*pw]."""
        latent: Tensor = self._vae.encode(image)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,h*ph,w*pw] -> `frame` [360,640,3] uint8."""
        return self._decode(self._vae, latent.float())

    def sites(self, geometry: WaypointGeometry) -> dict[str, Site]:
        """Modules whose names are those of sites."""
        return matching_sites(self._vae.ae_model, geometry)


class StreamedTaehv:
    """Waypoint 1.5's, which sends the frames of a latent through all layers one after the other.

    A site holds the frames of one latent together, so they are collected while it runs, and shown when it has run. By
    then nothing can be put in their place. Of the frames that fill the decoder's memory before the first latent of a
    stream is decoded, nothing is shown.
    """

    decodes_seed = True
    claims: Mapping[str, str] = {
        "autoencoder": "ChunkedStreamingTAEHV in the engine's dtype, its streams reset with the engine",
        "seed latent": "decoded by the adapter, as later releases decode it; these sources return the pictures instead",
    }

    def __init__(self, vae: Any) -> None:
        """`vae`: the engine's ChunkedStreamingTAEHV."""
        self._vae = vae
        self._frames: dict[str, list[Tensor]] = defaultdict(list)
        self._probes: dict[str, dict[str, nn.Identity]] = {"encoder": {}, "decoder": {}}
        model = vae.streaming_ae_model.taehv
        for coder, probes in self._probes.items():
            for number, layer in enumerate(getattr(model, coder)):
                if any(True for _ in layer.parameters()):
                    probes[f"{coder}.{number}"] = nn.Identity()
                    layer.register_forward_hook(self._collector(f"{coder}.{number}"))
        # Every latent enters the decoder once; those that only fill its memory come before.
        model.decoder[0].register_forward_pre_hook(lambda layer, inputs: self._frames.clear())

    def encode(self, image: Tensor) -> Tensor:
        """`image` [4,H,W,3] uint8 -> latent [1,C,h*ph,w*pw]."""
        self._frames.clear()
        latent: Tensor = self._vae.encode(image)
        self._show("encoder")
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,h*ph,w*pw] -> `frame` [4,H,W,3] uint8."""
        frame: Tensor = self._vae.decode(latent)
        self._show("decoder")
        return frame

    def sites(self, geometry: WaypointGeometry) -> dict[str, Site]:
        """Every layer with weights, by its number."""
        return {name: Site(probe, _as_shown) for probes in self._probes.values() for name, probe in probes.items()}

    def _collector(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        # A copy, because the layer behind works in place.
        return lambda layer, inputs, output: self._frames[name].append(output.clone())

    def _show(self, coder: str) -> None:
        for name, probe in self._probes[coder].items():
            probe(torch.cat(self._frames[name]))
        self._frames.clear()


def _as_shown(output: Tensor, inputs: Any) -> Tensor:
    """A layout without a way back: the tensor that is shown has been used already."""
    return output
