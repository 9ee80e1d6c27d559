"""Implementations for the tests of the instrument: the reference with one thing changed."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.reference.eager.adapter import EagerAdapter


class Louder(EagerAdapter):
    """Shows one block too loud, by a part in ten thousand; computes as the reference does."""

    def sites(self) -> Mapping[str, Site]:
        loud = "transformer.blocks.1.mlp"
        sites = dict(super().sites())
        return sites | {loud: replace(sites[loud], layout=lambda output, inputs: output * 1.0001)}


class OtherNoise(EagerAdapter):
    """Consumes another noise than it was given."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        return super().generate(noise.flip(-1), controls)


class Fewer(EagerAdapter):
    """Has no sites in its decoder."""

    def sites(self) -> Mapping[str, Site]:
        return {name: site for name, site in super().sites().items() if not name.startswith("decoder.")}


class Silent(EagerAdapter):
    """Says that it has a site, which never shows anything."""

    def sites(self) -> Mapping[str, Site]:
        return {**super().sites(), "out_norm": Site(torch.nn.Identity())}


class Reusing(EagerAdapter):
    """Shows all its blocks through one buffer, as an engine does that allocates nothing in its loop."""

    def sites(self) -> Mapping[str, Site]:
        sites = dict(super().sites())
        buffer = torch.empty(1, 4, 64)

        def show(output: Tensor, inputs: object) -> Tensor:
            return buffer.copy_(output)

        blocks = [name for name in sites if name.endswith(".mlp")]
        return sites | {name: replace(sites[name], layout=show) for name in blocks}


class Interrupted(EagerAdapter):
    """Fails in the middle of its first frame."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        passes = super().generate(noise, controls)
        yield next(passes)
        yield next(passes)
        raise RuntimeError("out of luck")


class Shy(EagerAdapter):
    """Computes otherwise in one block while a hook is on it, as a kernel does that is fused only where nobody looks."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        block = self.sites()["transformer.blocks.0.mlp"].module
        seen = block.forward

        def forward(*args: Any, **options: Any) -> Any:
            return seen(*args, **options) * (1 + 1e-6 * bool(block._forward_hooks))

        block.forward = forward  # type: ignore[method-assign]


class NoAdapter:
    """Lacks most of what an adapter has."""

    def describe(self) -> dict[str, str]:
        return {}
