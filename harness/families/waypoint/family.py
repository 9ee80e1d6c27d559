"""Waypoint, as the harness asks for it. What needs torch is imported when it is asked for: a diff does not load it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from waypoint_parity.harness.families.waypoint import told
from waypoint_parity.harness.families.waypoint.caches import RingCaches
from waypoint_parity.harness.families.waypoint.config import (
    SECOND,
    AutoencoderConfig,
    TaehvConfig,
    TransformerConfig,
    WaypointGeometry,
)
from waypoint_parity.harness.families.waypoint.first_schema import upgraded
from waypoint_parity.harness.families.waypoint.kinds import KINDS
from waypoint_parity.harness.families.waypoint.sites import PARTS, output_of, site_table
from waypoint_parity.harness.run.family import Caches, Decoding, Factor, FaultKind, Field, Opened, Part, Plain
from waypoint_parity.harness.run.sites import SiteTable

if TYPE_CHECKING:
    from torch import Tensor

    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.checkpoint.weights import Shape, Weights
    from waypoint_parity.harness.run.adapter import Numerics, Pass
    from waypoint_parity.harness.run.keys import Key
    from waypoint_parity.harness.run.scenario import Scenario


class Waypoint(Plain):
    """See harness.run.family.Family. A unit is a frame."""

    name = "waypoint"
    unit_name = "frame"
    components = ("transformer", "vae")
    tied: ClassVar[Mapping[str, str]] = {"transformer": "cond_head.cond_proj."}
    parts: Sequence[Part] = PARTS
    kinds: ClassVar[Sequence[FaultKind]] = KINDS
    caches: Caches = RingCaches()
    configs = ("transformer/config.json", "vae/config.json", "config.yaml", "encoder_conf.yml", "decoder_conf.yml")
    layout = "transformer/config.json and vae/config.json, or config.yaml and model.safetensors"
    fields: Mapping[str, Field] = {
        "noise": Field(dtype="float32", axes=("unit", "B", "N", "C", "h*ph", "w*pw"), drawn=True),
        "button": Field(dtype="float32", axes=("unit", "n_buttons"), told=told.buttons),
        "mouse": Field(dtype="float32", axes=("unit", "2"), told=told.mouse),
        "scroll": Field(dtype="float32", axes=("unit", "1"), told=told.scroll),
        "prompt_emb": Field(dtype="float32", axes=("B", "P", "E"), required=False, told=told.prompt),
        "prompt_pad_mask": Field(dtype="bool", axes=("B", "P"), required=False),
        "image": Field(dtype="uint8", axes=("pictures", "H", "W", "3"), required=False),
        "sigmas": Field(dtype="float32", axes=("S+1",), required=False, site="input.sigma", schedule=True, level=True),
    }
    # fp32: the implementations here, and the official one, differ by at most 3e-6 at any site of a session of 14
    # frames; bf16: two right formulations of one model by up to 1.3e-2 at a site, and more as a session goes on.
    tolerances: Mapping[str, tuple[float, float]] = {"fp32": (1e-5, 1e-3), "bf16": (3e-2, 3e-2)}

    @cached_property
    def sites(self) -> SiteTable:
        """The table of models of both generations with every option."""
        return site_table(_FIRST, _SECOND)

    @cached_property
    def factors(self) -> Mapping[str, Factor]:
        """Schedule, seed, mask and policy; the noise policy comes after the seed that it draws from."""
        from waypoint_parity.harness.families.waypoint import factors

        return {
            "schedule": Factor(change=factors.with_schedule, levels=tuple(factors.SCHEDULES), kept="checkpoint"),
            "seed": Factor(change=factors.with_seed, levels=("11", "12"), name_of="seed{}".format),
            "mask": Factor(
                change=factors.with_mask,
                levels=factors.MASKS[:3],
                name_of="{}-padding".format,
                applies=lambda geometry: geometry.transformer.prompt_conditioning is not None,
                said=factors.padding_said,
            ),
            "policy": Factor(change=factors.with_policy, name_of="{}-noise".format),
        }

    @cached_property
    def layouts(self) -> Mapping[str, Callable[["Checkpoint", Path], None]]:
        """What writes the two layouts."""
        from waypoint_parity.harness.families.waypoint.layouts import write_diffusers, write_package

        return {"diffusers": write_diffusers, "package": write_package}

    @cached_property
    def decoding(self) -> Decoding:
        """A frame's final latent is decoded by itself, or after those before it."""
        from waypoint_parity.harness.families.waypoint.scenario import alone

        outputs = tuple(output_of(geometry.autoencoder, "decoder") for geometry in (_FIRST, _SECOND))
        return Decoding(latent="latent", outputs=outputs, picture="frame", alone=alone)

    def layout_of(self, folder: Path) -> str | None:
        """The layout of the checkpoint in a folder; None where there is none."""
        from waypoint_parity.harness.families.waypoint.layouts import layout_of

        return layout_of(folder)

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        """Patterns of the weights that belong to the configs in a folder."""
        from waypoint_parity.harness.families.waypoint.layouts import weight_files

        return weight_files(folder)

    def open(self, folder: Path, find: Callable[[str], Path]) -> Opened:
        """The checkpoint in a folder."""
        from waypoint_parity.harness.families.waypoint.layouts import opened

        return opened(folder, find)

    def keys(self, component: str, geometry: WaypointGeometry) -> Mapping[str, "Shape"]:
        """Key -> shape of a component's weights."""
        from waypoint_parity.harness.families.waypoint.inventory import autoencoder_keys, transformer_keys

        return (
            transformer_keys(geometry.transformer)
            if component == "transformer"
            else autoencoder_keys(geometry.autoencoder)
        )

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """What is wrong with the fields of a scenario file, beyond names and dtypes."""
        from waypoint_parity.harness.families.waypoint.scenario import problems

        return problems(tensors, labels)

    def units(self, tensors: Mapping[str, "Tensor"]) -> int:
        """F, the number of generated frames."""
        return tensors["noise"].shape[0]

    def make(self, geometry: WaypointGeometry, *, name: str, seed: int, units: int, **wanted: Any) -> "Scenario":
        """A scenario from a seed alone, but for a `prompt` to encode, and for the picture in a file as its `image`."""
        from waypoint_parity.harness.families.waypoint.draws import make_scenario, noise_policy, read_image
        from waypoint_parity.harness.families.waypoint.prompt_encoder import encoded
        from waypoint_parity.harness.families.waypoint.scenario import image_shape

        if "noise_policy" in wanted:
            wanted["noise_policy"] = noise_policy(wanted["noise_policy"])
        encoder, text = wanted.pop("text_encoder", None), wanted.pop("prompt", None)
        if prompt := encoded(text, encoder, wanted.get("prompt_tokens")):
            wanted["prompt"] = prompt
        if isinstance(wanted.get("image"), Path):
            wanted["image"] = read_image(wanted["image"], image_shape(geometry)[-3:-1])
        return make_scenario(geometry, name=name, seed=seed, units=units, **wanted)

    def check(self, scenario: "Scenario", geometry: WaypointGeometry) -> None:
        """Raise UserError where the scenario is not one for the checkpoint."""
        from waypoint_parity.harness.families.waypoint.scenario import check

        check(scenario, geometry)

    def prepared(self, scenario: "Scenario", geometry: WaypointGeometry) -> "Scenario":
        """The scenario with the schedule of the checkpoint, and with as many pictures as the model takes."""
        from waypoint_parity.harness.families.waypoint.scenario import prepared

        return prepared(scenario, geometry)

    def first_units(self, scenario: "Scenario", units: int) -> "Scenario":
        """The scenario's first frames alone."""
        from waypoint_parity.harness.families.waypoint.scenario import of_frames

        return of_frames(scenario, range(units))

    def other(self, scenario: "Scenario", geometry: WaypointGeometry) -> "Scenario":
        """One with another prompt, with other noise and controls, and after another image where there is one."""
        from waypoint_parity.harness.families.waypoint.draws import other_session

        return other_session(scenario, geometry)

    def sigmas(self, scenario: "Scenario", geometry: WaypointGeometry) -> list[float]:
        """The schedule of a session."""
        from waypoint_parity.harness.families.waypoint.scenario import schedule

        return [float(sigma) for sigma in schedule(scenario, geometry.transformer)]

    def session(self, scenario: "Scenario", geometry: WaypointGeometry) -> Iterator[tuple[int, "Pass"]]:
        """(frame, pass) of every pass."""
        from waypoint_parity.harness.families.waypoint.scenario import planned

        return planned(scenario, geometry.transformer)

    def table(self, geometry: WaypointGeometry, scenario: "Scenario") -> SiteTable:
        """All that is known of the sites of a session."""
        return site_table(geometry, image=scenario.get("image") is not None)

    def counts(self, key: "Key", scenario: "Scenario", geometry: WaypointGeometry) -> "Tensor | None":
        """Of a ring's keys and values what was written by then: whatever else it has in memory is never attended."""
        from waypoint_parity.harness.families.waypoint.rings.slots import written_tokens

        clock = key.unit + (key.phase == "cache" and scenario.get("image") is not None)
        return written_tokens(key.site, clock, geometry.transformer)

    def facts(self, checkpoint: Path) -> Mapping[str, str]:
        """How latents are scaled and shifted."""
        return {"latent scale and shift": told.scale_and_shift(checkpoint)}

    def words(
        self, first: "Key", faults: Collection["Key"], geometry: WaypointGeometry, scenario: "Scenario"
    ) -> list[str]:
        """See harness.families.waypoint.words."""
        from waypoint_parity.harness.families.waypoint.words import words

        return words(first, faults, geometry, scenario)

    def layer_groups(self, names: Collection[str], geometry: WaypointGeometry) -> Mapping[str, Sequence[int]]:
        """Local and global layers, and the first ones."""
        from waypoint_parity.harness.families.waypoint.words import layer_groups

        return layer_groups(names, geometry)

    def geometry_lines(self, geometry: WaypointGeometry) -> list[str]:
        """Layers, rings and schedule."""
        config = geometry.transformer
        latent = " x ".join(str(size) for size in config.latent_shape)
        rings = [f"{layer}: {config.ring_frames(layer)}/{config.dilation(layer)}" for layer in range(config.n_layers)]
        return [
            f"geometry     {config.n_layers} layers of width {config.d_model}, {config.n_heads} query and "
            f"{config.n_kv_heads} key/value heads of width {config.head_dim}, "
            f"{config.tokens_per_frame} tokens a frame, latent {latent}",
            *([f"clocks       the rotation's is {config.clock_ratio} x the rings'"] if config.is_waypoint_15 else []),
            f"rings        layer: frames/dilation  {', '.join(rings)}",
            f"schedule     {', '.join(f'{sigma:.6g}' for sigma in config.scheduler_sigmas)}",
        ]

    def weight_lines(self, files: Mapping[str, "Weights"], geometry: WaypointGeometry) -> list[str]:
        """Of Waypoint 1.5, which bias its conditioning heads need, and what is there in both spellings."""
        from waypoint_parity.harness.families.waypoint.spelling import told as told_of_spelling

        config = geometry.transformer
        return told_of_spelling(files["transformer"], config) if config.is_waypoint_15 else []

    def scenario_lines(self, scenario: "Scenario") -> list[str]:
        """Which walk shows its true frames, where there is one, and what its prompt looks like."""
        from waypoint_parity.harness.families.waypoint.scenario import prompt_lines

        walk = scenario.labels.get("world_seed")
        true_frames = [] if walk is None else [f"true frames      walk {walk} of the small world"]
        return [*true_frames, *prompt_lines(scenario)]

    @contextmanager
    def serving(
        self,
        names: Sequence[str],
        checkpoint: "Checkpoint",
        numerics: "Sequence[Numerics]",
        scenario: "Scenario",
        page: Callable[[Any, str], str],
        **wanted: Any,
    ) -> Iterator[str]:
        """Reference and candidate in a walk that somebody takes: see harness.families.waypoint.play."""
        from waypoint_parity.harness.families.waypoint.play.stage import served

        with served(names, checkpoint, numerics, scenario, page, **wanted) as address:
            yield address

    def upgraded(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A manifest of the first schema in the names of this one."""
        return upgraded(manifest)

    def control(
        self, part: str, scenario: "Scenario", geometry: WaypointGeometry
    ) -> "tuple[Scenario, str, str] | None":
        """Of a part that reads the prompt: the same without any padding."""
        from waypoint_parity.harness.families.waypoint.factors import with_mask

        mask = scenario.get("prompt_pad_mask")
        if part not in ("input.prompt", "prompt attention") or mask is None or not bool(mask.any()):
            return None
        return with_mask(scenario, geometry, "none"), "unchanged by padding", "only with padding"


_WITH_EVERYTHING: dict[str, Any] = {
    "d_model": 32,
    "n_heads": 1,
    "n_layers": 2,
    "mlp_ratio": 1,
    "channels": 1,
    "height": 1,
    "width": 1,
    "tokens_per_frame": 1,
    "n_frames": 1,
    "local_window": 1,
    "global_window": 1,
    "global_attn_period": 1,
    "global_attn_offset": 0,
    "global_pinned_dilation": 1,
    "n_buttons": 1,
    "ctrl_conditioning": "mlp_fusion",
    "ctrl_conditioning_period": 1,
    "prompt_conditioning": "cross_attention",
    "prompt_conditioning_period": 1,
    "prompt_embedding_dim": 32,
    "noise_conditioning": "wan",
    "scheduler_sigmas": (1.0, 0.0),
    "base_fps": 1,
    "value_residual": True,
    "gated_attn": True,
}
_FIRST = WaypointGeometry(
    TransformerConfig(**_WITH_EVERYTHING),
    AutoencoderConfig(
        channels=3,
        latent_channels=1,
        encoder_ch_0=1,
        encoder_ch_max=1,
        encoder_blocks_per_stage=(1,),
        decoder_ch_0=1,
        decoder_ch_max=1,
        decoder_blocks_per_stage=(1,),
    ),
)
_SECOND = WaypointGeometry(
    TransformerConfig(**_WITH_EVERYTHING | {"model_type": SECOND, "taehv_ae": True, "prompt_conditioning": None}),
    TaehvConfig(
        latent_channels=1, encoder_width=1, decoder_widths=(1, 1, 1, 1), inner_size=(16, 16), picture_size=(16, 16)
    ),
)
FAMILY = Waypoint()
