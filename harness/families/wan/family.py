"""Wan 2.1 text-to-video, as the harness asks for it. What needs torch is imported when it is asked for."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from waypoint_parity.harness.families.wan.config import WanGeometry
from waypoint_parity.harness.families.wan.kinds import KINDS, words
from waypoint_parity.harness.families.wan.sites import PARTS, site_table
from waypoint_parity.harness.run.family import Decoding, Factor, FaultKind, Field, Opened, Part, Plain
from waypoint_parity.harness.run.sites import SiteTable

if TYPE_CHECKING:
    from torch import Tensor

    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.checkpoint.weights import Shape
    from waypoint_parity.harness.run.adapter import Pass
    from waypoint_parity.harness.run.keys import Key
    from waypoint_parity.harness.run.scenario import Scenario


class Wan(Plain):
    """See harness.run.family.Family. A unit is a clip."""

    name = "wan"
    unit_name = "clip"
    components = ("transformer", "vae")
    parts: Sequence[Part] = PARTS
    kinds: ClassVar[Sequence[FaultKind]] = KINDS
    configs = ("config.json", "model_index.json", "transformer/config.json", "vae/config.json")
    layout = "config.json of a WanModel and Wan2.1_VAE.pth, or transformer/ and vae/ of a WanPipeline"
    fields: Mapping[str, Field] = {
        "noise": Field(dtype="float32", axes=("unit", "C", "T", "h", "w"), drawn=True),
        "timesteps": Field(dtype="int64", axes=("S",), site="input.timestep", schedule=True),
        "sigmas": Field(dtype="float32", axes=("S+1",), site="input.sigma", schedule=True),
        "prompt_emb": Field(dtype="float32", axes=("tokens", "E")),
        "negative_emb": Field(dtype="float32", axes=("tokens", "E"), site="input.prompt_emb"),
    }
    # Official code and diffusers are up to 8.6e-6 apart in fp32 at 30 layers: the latter computes phases of up to 1000
    # radians in fp32. Published models have 30 and 40.
    tolerances: Mapping[str, tuple[float, float]] = {"fp32": (2e-5, 1e-3), "bf16": (3e-2, 3e-2)}

    @cached_property
    def sites(self) -> SiteTable:
        """The table of a model of two blocks, which stands for all."""
        return site_table(2)

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Schedule, shift, seed, frames, guidance, and both prompts; frames are drawn from the seed before them."""
        from waypoint_parity.harness.families.wan import scenario

        return {
            "schedule": Factor(
                change=scenario.with_steps, levels=("recorded", "2"), kept="recorded", name_of="steps-{}".format
            ),
            "shift": Factor(change=scenario.with_shift, name_of="shift{}".format),
            "seed": Factor(change=scenario.with_seed, levels=("11",), name_of="seed{}".format),
            "frames": Factor(change=scenario.with_frames, name_of="{}-pictures".format),
            "guidance": Factor(change=scenario.with_guidance, name_of="guidance{}".format),
            "prompt": Factor(change=scenario.with_prompt, name_of="{}-tokens".format),
            "negative": Factor(change=scenario.with_negative, name_of="negative-{}".format),
        }

    @cached_property
    def layouts(self) -> Mapping[str, Callable[["Checkpoint", Path], None]]:
        """What writes the two layouts."""
        from waypoint_parity.harness.families.wan.layouts import DIFFUSERS, OFFICIAL, write_diffusers, write_official

        return {OFFICIAL: write_official, DIFFUSERS: write_diffusers}

    @cached_property
    def decoding(self) -> Decoding:
        """A clip's final latent is decoded after a single step."""
        from waypoint_parity.harness.families.wan.scenario import alone

        return Decoding(latent="latent", outputs=("decoder.head",), picture="picture", alone=alone)

    def layout_of(self, folder: Path) -> str | None:
        """The layout of the checkpoint in a folder; None where there is none."""
        from waypoint_parity.harness.families.wan.layouts import layout_of

        return layout_of(folder)

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        """Patterns of the weights that belong to the configs in a folder."""
        from waypoint_parity.harness.families.wan.layouts import weight_files

        return weight_files(folder)

    def open(self, folder: Path, find: Callable[[str], Path]) -> Opened:
        """The checkpoint in a folder."""
        from waypoint_parity.harness.families.wan.layouts import opened

        return opened(folder)

    def keys(self, component: str, geometry: WanGeometry) -> Mapping[str, "Shape"]:
        """Key -> shape of a component's weights."""
        from waypoint_parity.harness.families.wan.inventory import autoencoder_keys, transformer_keys

        if component == "transformer":
            return transformer_keys(geometry.transformer)
        return autoencoder_keys(geometry.autoencoder)

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """What is wrong with the fields of a scenario file, beyond names and dtypes."""
        from waypoint_parity.harness.families.wan.scenario import problems

        return problems(tensors)

    def units(self, tensors: Mapping[str, "Tensor"]) -> int:
        """How many clips."""
        return tensors["noise"].shape[0]

    def make(self, geometry: WanGeometry, *, name: str, seed: int, units: int, **wanted: Any) -> "Scenario":
        """A scenario from a seed alone, of `prompt_tokens` where they are wanted."""
        from waypoint_parity.harness.errors import UserError
        from waypoint_parity.harness.families.wan.scenario import made

        if unknown := sorted(wanted.keys() - {"prompt_tokens"}):
            raise UserError(
                "a scenario of Wan is drawn from its seed",
                found=", ".join(unknown),
                expected="a seed, a number of clips, and perhaps a number of prompt tokens",
                do="leave the option out; a scenario with your own embeddings is a safetensors file with these fields",
            )
        return made(geometry, name=name, seed=seed, units=units, **wanted)

    def check(self, scenario: "Scenario", geometry: WanGeometry) -> None:
        """Raise UserError where the scenario is not one for the checkpoint."""
        from waypoint_parity.harness.families.wan.scenario import check

        check(scenario, geometry)

    def first_units(self, scenario: "Scenario", units: int) -> "Scenario":
        """The scenario's first clips alone."""
        from waypoint_parity.harness.families.wan.scenario import of_clips

        return of_clips(scenario, range(units))

    def sigmas(self, scenario: "Scenario", geometry: WanGeometry) -> list[float]:
        """The noise levels of a session."""
        return [float(sigma) for sigma in scenario["sigmas"]]

    def session(self, scenario: "Scenario", geometry: WanGeometry) -> Iterator[tuple[int, "Pass"]]:
        """(clip, pass) of every pass."""
        from waypoint_parity.harness.families.wan.scenario import session

        return session(scenario)

    def table(self, geometry: WanGeometry, scenario: "Scenario") -> SiteTable:
        """All that is known of the sites of a session."""
        return site_table(geometry.transformer.num_layers)

    def words(self, first: "Key", faults: Collection["Key"], geometry: WanGeometry, scenario: "Scenario") -> list[str]:
        """In which step and branch a fault begins, and which ones have it."""
        return words(first, faults, scenario.get("timesteps"))

    def layer_groups(self, names: Collection[str], geometry: WanGeometry) -> Mapping[str, Sequence[int]]:
        """Every block."""
        return {"every": list(range(geometry.transformer.num_layers))}

    def geometry_lines(self, geometry: WanGeometry) -> list[str]:
        """Layers, heads and the autoencoder's width."""
        config = geometry.transformer
        return [
            f"geometry     {config.num_layers} blocks of width {config.dim}, {config.num_heads} heads of width "
            f"{config.dim // config.num_heads}, feed-forward {config.ffn_dim}, prompts of {config.text_len} x "
            f"{config.text_dim}",
            f"autoencoder  latents of {geometry.autoencoder.z_dim} channels, width {geometry.autoencoder.base_dim}",
        ]

    def scenario_lines(self, scenario: "Scenario") -> list[str]:
        """Pictures of a clip, and the schedule."""
        from waypoint_parity.harness.families.wan.scenario import pictures

        count, height, width = pictures(scenario)
        return [
            f"pictures     {count} of {height} x {width} a clip",
            f"timesteps    {', '.join(str(step) for step in scenario['timesteps'].tolist())}",
        ]


FAMILY = Wan()
