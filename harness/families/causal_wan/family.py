"""Causal Wan, as the harness asks for it. What needs torch is imported when it is asked for."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from waypoint_parity.harness.families.causal_wan.caches import WindowCaches
from waypoint_parity.harness.families.causal_wan.config import CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.kinds import KINDS, words
from waypoint_parity.harness.families.causal_wan.sites import PARTS, site_table
from waypoint_parity.harness.run.family import Caches, Factor, FaultKind, Field, Opened, Part, Plain
from waypoint_parity.harness.run.sites import SiteTable

if TYPE_CHECKING:
    from torch import Tensor

    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.checkpoint.weights import Shape
    from waypoint_parity.harness.run.adapter import Pass
    from waypoint_parity.harness.run.keys import Key
    from waypoint_parity.harness.run.scenario import Scenario


class CausalWan(Plain):
    """See harness.run.family.Family. A unit is a chunk of latents, which are what comes out: none are decoded."""

    name = "causal-wan"
    unit_name = "chunk"
    components = ("transformer",)
    parts: Sequence[Part] = PARTS
    kinds: ClassVar[Sequence[FaultKind]] = KINDS
    caches: Caches = WindowCaches()
    configs = ("config.json",)
    layout = "config.json of a CausalWanModel, and its weights"
    fields: Mapping[str, Field] = {
        "noise": Field(dtype="float32", axes=("unit", "S", "C", "N", "h", "w"), drawn=True),
        "timesteps": Field(dtype="float32", axes=("S",), site="input.timestep", schedule=True),
        "sigmas": Field(dtype="float32", axes=("S",), site="input.sigma", schedule=True, level=True),
        "prompt_emb": Field(dtype="float32", axes=("tokens", "E")),
    }
    # As of Wan 2.1, whose transformer it is.
    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {"fp32": (2e-5, 1e-3), "bf16": (3e-2, 3e-2)}

    @cached_property
    def sites(self) -> SiteTable:
        """The table of a model of two blocks, which stands for all."""
        return site_table(2)

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Seed, steps, chunks, latents of a chunk, and the length of the prompt."""
        from waypoint_parity.harness.families.causal_wan import scenario

        return {
            "schedule": Factor(
                change=scenario.with_steps, levels=("recorded", "2"), kept="recorded", name_of="steps-{}".format
            ),
            "seed": Factor(change=scenario.with_seed, levels=("11",), name_of="seed{}".format),
            "chunks": Factor(change=scenario.with_chunks, name_of="{}-chunks".format),
            "latents": Factor(change=scenario.with_latents, name_of="{}-latents".format),
            "prompt": Factor(change=scenario.with_prompt, name_of="{}-tokens".format),
        }

    @cached_property
    def layouts(self) -> Mapping[str, Callable[["Checkpoint", Path], None]]:
        """What writes the only layout."""
        from waypoint_parity.harness.families.causal_wan.layouts import OFFICIAL, write_official

        return {OFFICIAL: write_official}

    def layout_of(self, folder: Path) -> str | None:
        """The layout of the checkpoint in a folder; None where there is none."""
        from waypoint_parity.harness.families.causal_wan.layouts import layout_of

        return layout_of(folder)

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        """Patterns of the weights that belong to the config in a folder."""
        from waypoint_parity.harness.families.causal_wan.layouts import WEIGHTS

        return WEIGHTS

    def open(self, folder: Path, find: Callable[[str], Path]) -> Opened:
        """The checkpoint in a folder."""
        from waypoint_parity.harness.families.causal_wan.layouts import opened

        return opened(folder)

    def keys(self, component: str, geometry: CausalWanGeometry) -> Mapping[str, "Shape"]:
        """Key -> shape of the weights, which are those of Wan 2.1."""
        from waypoint_parity.harness.families.wan.inventory import transformer_keys

        return transformer_keys(geometry.transformer)

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """What is wrong with the fields of a scenario file, beyond names and dtypes."""
        from waypoint_parity.harness.families.causal_wan.scenario import problems

        return problems(tensors)

    def units(self, tensors: Mapping[str, "Tensor"]) -> int:
        """How many chunks."""
        return tensors["noise"].shape[0]

    def make(self, geometry: CausalWanGeometry, *, name: str, seed: int, units: int, **wanted: Any) -> "Scenario":
        """A scenario from a seed alone, of `prompt_tokens` where they are wanted."""
        from waypoint_parity.harness.errors import UserError
        from waypoint_parity.harness.families.causal_wan.scenario import made

        if unknown := sorted(wanted.keys() - {"prompt_tokens"}):
            raise UserError(
                "a scenario of causal Wan is drawn from its seed",
                found=", ".join(unknown),
                expected="a seed, a number of chunks, and perhaps a number of prompt tokens",
                do="leave the option out; a scenario with your own embeddings is a safetensors file with these fields",
            )
        return made(geometry, name=name, seed=seed, units=units, **wanted)

    def check(self, scenario: "Scenario", geometry: CausalWanGeometry) -> None:
        """Raise UserError where the scenario is not one for the checkpoint."""
        from waypoint_parity.harness.families.causal_wan.scenario import check

        check(scenario, geometry)

    def first_units(self, scenario: "Scenario", units: int) -> "Scenario":
        """The scenario's first chunks alone."""
        from waypoint_parity.harness.families.causal_wan.scenario import first_chunks

        return first_chunks(scenario, units)

    def sigmas(self, scenario: "Scenario", geometry: CausalWanGeometry) -> list[float]:
        """The noise level of every step, and of the clean latents behind them."""
        return [*(float(sigma) for sigma in scenario["sigmas"]), 0.0]

    def session(self, scenario: "Scenario", geometry: CausalWanGeometry) -> Iterator[tuple[int, "Pass"]]:
        """(chunk, pass) of every pass."""
        from waypoint_parity.harness.families.causal_wan.scenario import session

        return session(scenario)

    def table(self, geometry: CausalWanGeometry, scenario: "Scenario") -> SiteTable:
        """All that is known of the sites of a session."""
        return site_table(geometry.transformer.num_layers)

    def words(
        self, first: "Key", faults: Collection["Key"], geometry: CausalWanGeometry, scenario: "Scenario"
    ) -> list[str]:
        """In which chunk a fault begins, and whether that is the first that evicts."""
        return words(first, faults, geometry, scenario)

    def layer_groups(self, names: Collection[str], geometry: CausalWanGeometry) -> Mapping[str, Sequence[int]]:
        """Every block."""
        return {"every": list(range(geometry.transformer.num_layers))}

    def geometry_lines(self, geometry: CausalWanGeometry) -> list[str]:
        """Layers, heads and the window."""
        config = geometry.transformer
        return [
            f"geometry     {config.num_layers} blocks of width {config.dim}, {config.num_heads} heads of width "
            f"{config.dim // config.num_heads}, feed-forward {config.ffn_dim}, prompts of {config.text_len} x "
            f"{config.text_dim}",
            f"window       {geometry.slots} latents, of which the first {geometry.sink_size} stay"
            + ("" if geometry.local_attn_size > 0 else "; nothing is evicted"),
        ]

    def scenario_lines(self, scenario: "Scenario") -> list[str]:
        """Latents of a chunk, and the schedule."""
        latents, height, width = scenario["noise"].shape[3:]
        return [
            f"latents      {latents} of {height} x {width} a chunk",
            f"timesteps    {', '.join(f'{step:g}' for step in scenario['timesteps'].tolist())}",
        ]


FAMILY = CausalWan()
