"""HY-WorldPlay WAN-5B, as the harness asks for it. What needs torch is imported when it is asked for."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from waypoint_parity.harness.families.hy_worldplay.caches import MemoryCaches
from waypoint_parity.harness.families.hy_worldplay.config import (
    HyGeometry,
    autoencoder_config,
    transformer_config,
    transformer_keys,
)
from waypoint_parity.harness.families.hy_worldplay.kinds import KINDS, words
from waypoint_parity.harness.families.hy_worldplay.sites import PARTS, site_table
from waypoint_parity.harness.run.family import Caches, Factor, FaultKind, Field, Opened, Part, Plain
from waypoint_parity.harness.run.sites import SiteTable

if TYPE_CHECKING:
    from torch import Tensor

    from waypoint_parity.harness.checkpoint.weights import Shape
    from waypoint_parity.harness.run.adapter import Pass
    from waypoint_parity.harness.run.keys import Key
    from waypoint_parity.harness.run.scenario import Scenario

_TRANSFORMER, _VAE = "wan_transformer/config.json", "vae/config.json"
_WEIGHTS = ("wan_distilled_model/model.safetensors", "vae/diffusion_pytorch_model.safetensors")


class HyWorldPlay(Plain):
    """See harness.run.family.Family. A unit is a chunk of four latents."""

    name = "hy-worldplay"
    unit_name = "chunk"
    components = ("transformer", "vae")
    parts: Sequence[Part] = PARTS
    kinds: ClassVar[Sequence[FaultKind]] = KINDS
    caches: Caches = MemoryCaches()
    configs = (_TRANSFORMER, _VAE)
    layout = "wan_transformer/config.json, wan_distilled_model/model.safetensors, and vae/ of Wan 2.2 TI2V"
    fields: Mapping[str, Field] = {
        "noise": Field(dtype="float32", axes=("unit", "C", "F", "h", "w"), drawn=True),
        "timesteps": Field(dtype="float32", axes=("S",), site="input.timestep", schedule=True),
        "prompt_emb": Field(dtype="float32", axes=("tokens", "E")),
        "viewmats": Field(dtype="float32", axes=("unit", "F", "4", "4")),
        "intrinsics": Field(dtype="float32", axes=("unit", "F", "3", "3")),
        "action": Field(dtype="float32", axes=("unit", "F")),
        "points": Field(dtype="float32", axes=("points", "3"), required=False, site="memory.latents"),
    }
    tolerances: Mapping[str, tuple[float, float]] = {"fp32": (1e-5, 1e-3)}

    @cached_property
    def sites(self) -> SiteTable:
        """The table of a model of two blocks, which stands for all."""
        return site_table(2, 4)

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Noise, and how many of the steps."""
        from waypoint_parity.harness.families.hy_worldplay import scenario

        return {
            "schedule": Factor(
                change=scenario.with_steps, levels=("recorded", "2"), kept="recorded", name_of="steps-{}".format
            ),
            "seed": Factor(change=scenario.with_seed, levels=("11",), name_of="seed{}".format),
        }

    def layout_of(self, folder: Path) -> str | None:
        """The layout of the checkpoint in a folder; None where there is none."""
        return "hy-worldplay" if all((folder / name).is_file() for name in self.configs) else None

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        """Patterns of the weights that belong to the configs in a folder."""
        return _WEIGHTS

    def open(self, folder: Path, find: Callable[[str], Path]) -> Opened:
        """The checkpoint in a folder."""
        from waypoint_parity.harness.checkpoint.stored import read_mapping
        from waypoint_parity.harness.checkpoint.weights import Weights

        paths = {"transformer": folder / _TRANSFORMER, "vae": folder / _VAE}
        config = transformer_config(read_mapping(paths["transformer"]), str(paths["transformer"]))
        vae = autoencoder_config(read_mapping(paths["vae"]), str(paths["vae"]), config.in_channels)
        files = {part: Weights({folder / name: ""}) for part, name in zip(paths, _WEIGHTS, strict=True)}
        return Opened(HyGeometry(config, vae), files)

    def keys(self, component: str, geometry: HyGeometry) -> Mapping[str, "Shape"] | None:
        """Key -> shape of the transformer's weights. Those of the autoencoder are diffusers' to know."""
        return transformer_keys(geometry.transformer) if component == "transformer" else None

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """What is wrong with the fields of a scenario file, beyond names and dtypes."""
        from waypoint_parity.harness.families.hy_worldplay.scenario import problems

        return problems(tensors)

    def units(self, tensors: Mapping[str, "Tensor"]) -> int:
        """How many chunks."""
        return tensors["noise"].shape[0]

    def make(self, geometry: HyGeometry, *, name: str, seed: int, units: int, **wanted: Any) -> "Scenario":
        """A scenario from a seed alone."""
        from waypoint_parity.harness.errors import UserError
        from waypoint_parity.harness.families.hy_worldplay.scenario import made

        if wanted:
            raise UserError(
                "a scenario of HY-WorldPlay is drawn from its seed",
                found=", ".join(sorted(wanted)),
                expected="a seed and a number of chunks",
                do="leave the option out; a scenario of your own is a safetensors file with these fields",
            )
        return made(geometry, name=name, seed=seed, units=units)

    def check(self, scenario: "Scenario", geometry: HyGeometry) -> None:
        """Raise UserError where the scenario is not one for the checkpoint."""
        from waypoint_parity.harness.families.hy_worldplay.scenario import check

        check(scenario, geometry)

    def first_units(self, scenario: "Scenario", units: int) -> "Scenario":
        """The scenario's first chunks alone."""
        from waypoint_parity.harness.families.hy_worldplay.scenario import of_chunks

        return of_chunks(scenario, units)

    def sigmas(self, scenario: "Scenario", geometry: HyGeometry) -> list[float]:
        """The noise levels of a session."""
        from waypoint_parity.harness.families.hy_worldplay.scenario import sigmas

        return sigmas(scenario)

    def session(self, scenario: "Scenario", geometry: HyGeometry) -> Iterator[tuple[int, "Pass"]]:
        """(chunk, pass) of every pass."""
        from waypoint_parity.harness.families.hy_worldplay.scenario import session

        return session(scenario)

    def table(self, geometry: HyGeometry, scenario: "Scenario") -> SiteTable:
        """All that is known of the sites of a session."""
        return site_table(geometry.transformer.num_layers, geometry.up_blocks)

    def words(self, first: "Key", faults: Collection["Key"], geometry: HyGeometry, scenario: "Scenario") -> list[str]:
        """Where a fault begins."""
        return words(first)

    def layer_groups(self, names: Collection[str], geometry: HyGeometry) -> Mapping[str, Sequence[int]]:
        """Every block."""
        return {"every": list(range(geometry.transformer.num_layers))}

    def geometry_lines(self, geometry: HyGeometry) -> list[str]:
        """Layers, heads and the autoencoder."""
        config = geometry.transformer
        return [
            f"geometry     {config.num_layers} blocks of width {config.dim}, {config.num_attention_heads} heads of "
            f"width {config.attention_head_dim}, feed-forward {config.ffn_dim}",
            f"autoencoder  {json.dumps(geometry.autoencoder)[:200]}",
        ]


FAMILY = HyWorldPlay()
