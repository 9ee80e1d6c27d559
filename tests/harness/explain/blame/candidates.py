"""What the tests of blame share: changes to a candidate, candidates that show less, and what an adapter shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.harness.observations import FAMILY
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, recording


def geometry(**changes: Any) -> WaypointGeometry:
    """The geometry of the tiny checkpoint, with changes."""
    config = transformer_config(**changes)
    return WaypointGeometry(config, autoencoder_config(config))


GEOMETRY = geometry()
# What is known of a checkpoint without its weights.
CHECKPOINT = Checkpoint("made by hand", FAMILY.name, GEOMETRY, {})
TABLE = site_table(GEOMETRY)
# By which the faults here are off.
FASTER, LOUDER = 1.1, 1.05
LOUD = "transformer.blocks.1.mlp"


def faster(adapter: Any) -> None:
    """The velocity is too large."""
    adapter.sites()["velocity"].module.register_forward_hook(lambda module, inputs, velocity: velocity * FASTER)


def louder(adapter: Any) -> None:
    """The MLP of block 1 is too loud."""
    adapter.sites()[LOUD].module.register_forward_hook(lambda module, inputs, output: output * LOUDER)


def loud_history(adapter: Any) -> None:
    """Block 1 attends to the values of the past as if they were larger. Without a past it is right."""
    attention = adapter.engine.model.layers[1].attn
    right, tokens = attention.attend, adapter.engine.model.config.tokens

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        past, own = v[:, :, :-tokens], v[:, :, -tokens:]
        attended: Tensor = right(q, k, torch.cat([past * 1.5, own], dim=2))
        return attended

    attention.attend = attend


class Sparse(CandidateAdapter):
    """Shows its blocks and what comes after them, and no part of a block; block 1 is too loud inside."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        louder(super())

    def sites(self) -> Mapping[str, Site]:
        shown = {f"transformer.blocks.{layer}" for layer in range(3)} | {"velocity", "latent", "frame"}
        return {name: site for name, site in super().sites().items() if name in shown}


class Sealed(CandidateAdapter):
    """Shows everything in layouts from which there is no way back; block 1 is too loud."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        louder(self)

    def sites(self) -> Mapping[str, Site]:
        return {name: sealed(site) for name, site in super().sites().items()}


class Moody(CandidateAdapter):
    """Too fast in its sessions FAST, counted from 0, and in its sessions LOUD too loud in block 1."""

    FAST: frozenset[int] = frozenset()
    LOUD: frozenset[int] = frozenset()

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.number = -1
        modules = {name: site.module for name, site in self.sites().items()}
        modules["velocity"].register_forward_hook(self._hook(self.FAST, FASTER))
        modules[LOUD].register_forward_hook(self._hook(self.LOUD, LOUDER))

    def _hook(self, sessions: frozenset[int], factor: float) -> Any:
        return lambda module, inputs, output: output * factor if self.number in sessions else None

    def start(self, prompt: Any, sigmas: Tensor) -> Any:
        self.number += 1
        return super().start(prompt, sigmas)


class FastOnce(Moody):
    """Wrong in its first session only."""

    FAST = frozenset([0])


class LoudLater(Moody):
    """Always too fast; in its fourth session, and in no other, also too loud."""

    FAST = frozenset(range(100))
    LOUD = frozenset([3])


def sealed(site: Site) -> Site:
    """The same site without a way back."""
    return Site(site.module, layout=site.layout or (lambda output, inputs: output))


def named(implementation: type) -> str:
    return f"{implementation.__module__}:{implementation.__name__}"


@dataclass
class Kept:
    """A sink that keeps a copy of everything."""

    tensors: dict[Key, Tensor]

    def observe(self, seen: Observation) -> None:
        self.tensors[seen.key] = seen.tensor.clone()

    def end_pass(self) -> None:
        pass


def shown(adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint) -> dict[Key, Tensor]:
    """What a session of `adapter` shows at every site, as it goes on with it."""
    kept = Kept({})
    with recording(adapter.sites(), kept) as taps:
        run(adapter, scenario, checkpoint, taps)
    return kept.tensors


def apart(one: Mapping[Key, Tensor], other: Mapping[Key, Tensor]) -> dict[Key, float]:
    """How far two sessions that show the same are apart, at every observation that differs."""
    assert one.keys() == other.keys()
    errors = {key: tensor_error(one[key], other[key]) for key in one}
    return {key: error.rel_l2 for key, error in errors.items() if not error.identical}


def hooks(adapter: Adapter) -> int:
    """How many hooks there are on the sites of an adapter."""
    modules = {site.module for site in adapter.sites().values()}
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
