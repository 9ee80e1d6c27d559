"""The table of sites: which of them each pass shows, and what each one is."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.family import FAMILY
from waypoint_parity.harness.families.waypoint.rings.side import ring_part
from waypoint_parity.harness.families.waypoint.scenario import session_passes
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import At, Key, block_of, is_input
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.sites import Kind, SiteTable

NO_PROMPT = {"prompt_conditioning": None, "prompt_conditioning_period": None, "prompt_embedding_dim": None}
OPTIONS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "value residual, no gates": {"value_residual": True, "gated_attn": False},
    "no prompt": NO_PROMPT,
    "no controls, two layers": {"ctrl_conditioning": None, "ctrl_conditioning_period": None, "n_layers": 2},
}
PASSES = [("prompt", 0), ("image", 0), ("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0)]
PHASES = list(dict.fromkeys(phase for phase, _ in PASSES))


def table(*, image: bool = True, **options: Any) -> SiteTable:
    config = transformer_config(**options)
    return site_table(WaypointGeometry(config, autoencoder_config(config)), image=image)


TABLE = table()
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def names(of: SiteTable) -> set[str]:
    return {row.name for row in of.rows}


def sites_of(phase: str, step: int = 0, of: SiteTable = TABLE) -> list[str]:
    return [row.name for row, _ in of.shown(phase, step, ("",))]


def key(site: str, phase: str = "denoise") -> Key:
    return Key(1, phase, 0, site)


class TestNames:
    def test_a_key_is_written_as_the_name_of_its_tensor(self) -> None:
        assert str(Key(3, "denoise", 1, "out_norm")) == "u3/denoise1/out_norm"
        assert str(Key(0, "cache", 0, "patchify", call=2)) == "u0/cache0/patchify#2"
        assert str(Key(0, "cache", 0, "patchify", "cond")) == "u0/cache0/patchify@cond"

    @pytest.mark.parametrize(
        ("site", "block"),
        [
            ("transformer.blocks.3.attn.q_proj", 3),
            ("transformer.blocks.12", 12),
            ("kv_cache.layers.0.kv", 0),
            ("decoder.residuals.2", 2),
            ("velocity", None),
        ],
    )
    def test_a_site_belongs_to_the_block_in_its_name(self, site: str, block: int | None) -> None:
        assert block_of(site) == block

    @pytest.mark.parametrize(
        ("site", "part"), [("kv_cache.layers.3.kv", "kv"), ("kv_cache.layers.0.written", "written"), ("latent", None)]
    )
    def test_a_site_of_a_ring_shows_a_part_of_it(self, site: str, part: str | None) -> None:
        assert ring_part(site) == part


# Of a geometry with everything but a value residual.
ENTRY = ["input.sigma", "input.timestamp", "denoise_step_emb", "ctrl_emb", "patchify"]
CONTROLS = ["input.button", "input.mouse", "input.scroll"]


def block(layer: int, *branches: str) -> list[str]:
    """The sites of one layer in a transformer pass."""
    of = f"transformer.blocks.{layer}"
    rotated = ["q_proj", "k_proj", "v_proj", "q_rope", "k_rope"]
    return [
        f"{of}.cond_head",
        *(f"{of}.attn.{name}" for name in rotated),
        f"kv_cache.layers.{layer}.visible",
        f"{of}.attn.gate_proj",
        f"{of}.attn",
        *(f"{of}.{branch}" for branch in branches),
        f"{of}.mlp",
        of,
    ]


# Every third layer attends to the prompt, every second one to the controls.
BLOCKS = [*block(0, "prompt_cross_attn", "ctrl_mlpfusion"), *block(1), *block(2, "ctrl_mlpfusion")]
RINGS = [f"kv_cache.layers.{layer}.{part}" for layer in range(3) for part in ("written", "kv")]


def coder(name: str) -> list[str]:
    inner = [f"{name}.{part}.{stage}" for stage in range(8) for part in ("blocks", "residuals")]
    return [f"{name}.conv_in", *inner, f"{name}.conv_out"]


class TestPasses:
    @pytest.mark.parametrize(
        ("phase", "step", "sites"),
        [
            ("prompt", 0, ["input.prompt_emb", "input.prompt_pad_mask"]),
            (
                "image",
                0,
                ["input.image", *coder("encoder"), "latent", *CONTROLS, *ENTRY, *BLOCKS, "out_norm", *RINGS],
            ),
            ("denoise", 0, [*CONTROLS, "input.noise", *ENTRY, *BLOCKS, "out_norm", "velocity", "latent"]),
            ("denoise", 1, [*ENTRY, *BLOCKS, "out_norm", "velocity", "latent"]),
            ("cache", 0, [*ENTRY, *BLOCKS, "out_norm", *RINGS]),
            ("decode", 0, [*coder("decoder"), "frame"]),
        ],
    )
    def test_a_pass_shows_its_sites_in_the_order_of_execution(self, phase: str, step: int, sites: list[str]) -> None:
        assert sites_of(phase, step) == sites

    @every_option
    @pytest.mark.parametrize("phase", PHASES)
    def test_a_pass_shows_each_of_its_sites_once(self, phase: str, options: dict[str, Any]) -> None:
        assert max(Counter(sites_of(phase, of=table(**options))).values()) == 1

    def test_a_session_without_an_image_has_the_same_passes_otherwise(self) -> None:
        for phase, step in PASSES[2:]:
            assert sites_of(phase, step, table(image=False)) == sites_of(phase, step)

    def test_what_a_pass_attends_to_is_shown_in_every_transformer_pass_and_optional(self) -> None:
        visible = [f"kv_cache.layers.{layer}.visible" for layer in range(3)]
        for phase in ("denoise", "cache", "image"):
            assert [site for site in sites_of(phase) if TABLE.is_optional(site)] == visible
        assert not any(map(TABLE.is_optional, sites_of("prompt") + sites_of("decode")))

    def test_a_block_has_sites_only_for_the_parts_it_has(self) -> None:
        bare = table(gated_attn=False, prompt_conditioning=None, ctrl_conditioning=None)
        for part in ("gate_proj", "prompt_cross_attn", "ctrl_mlpfusion"):
            assert any(part in site for site in names(TABLE))
            assert not any(part in site for site in names(bare))

    def test_a_session_runs_prompt_then_image_then_frame_after_frame(self) -> None:
        passes = [(frame, at.phase, at.step) for frame, at in session_passes(2, 2, prompt=True, image=True)]
        generated = [("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0)]
        expected = [(0, "prompt", 0), (0, "image", 0)]
        assert passes == expected + [(frame, *at) for frame in range(2) for at in generated]
        assert len(list(session_passes(2, 2, prompt=False, image=False))) == 8

    @pytest.mark.parametrize("pack", ["base", "image"])
    def test_every_site_of_the_official_packs_is_an_expected_one(
        self, golden: Path, base: Checkpoint, pack: str
    ) -> None:
        with safe_open(golden / pack / "activations.safetensors", framework="pt") as file:
            tensors = [name.split("/") for name in file.keys() if name.count("/") == 2]  # noqa: SIM118 - no mapping
        assert tensors
        assert {site for _, _, site in tensors} <= names(site_table(base.geometry))

    def test_the_reference_has_every_site_of_a_geometry(self, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
        adapter = find("eager")(tiny, fp32_on_cpu)
        assert adapter.sites().keys() == names(site_table(tiny.geometry))

    def test_an_observation_is_of_the_steps_that_show_its_site_as_the_same_part(self) -> None:
        session = [At(0, phase, step) for phase, step in PASSES]
        steps = {"image": session[1], "first": session[2], "second": session[3], "cache": session[4]}
        assert TABLE.showing(key("velocity"), session) == [steps["first"], steps["second"]]
        assert TABLE.showing(key("latent"), session) == [steps["first"], steps["second"]]
        assert TABLE.showing(key("latent", "image"), session) == [steps["image"]]
        assert TABLE.showing(key("input.button"), session) == [steps["image"], steps["first"]]
        assert TABLE.showing(key("kv_cache.layers.1.kv"), session) == [steps["image"], steps["cache"]]


class TestKinds:
    def test_every_site_has_one_kind_wherever_it_is_shown_but_the_latent(self) -> None:
        kinds = {name: {row.kind for row in TABLE.rows if row.name == name} for name in names(TABLE)}
        assert {name for name, found in kinds.items() if len(found) > 1} == {"latent"}

    @every_option
    def test_inputs_masks_and_caches_are_known_by_their_names(self, options: dict[str, Any]) -> None:
        of = table(**options)
        for name in names(of):
            assert (of.kind(name) is Kind.INPUT) == is_input(name), name
            assert of.is_mask(name) == (ring_part(name) in ("written", "visible")), name
            assert (of.kind(name) is Kind.CACHE) == (ring_part(name) == "kv"), name

    def test_the_picture_is_the_frame_and_a_step_ends_with_the_latent(self) -> None:
        assert TABLE.sites(Kind.PICTURE) == ["frame"]
        assert TABLE.sites(Kind.LATENT) == ["latent"]
        row = TABLE.of("latent", "denoise")
        assert row is not None
        assert row.kind is Kind.LATENT

    def test_a_table_of_two_layers_knows_the_sites_of_thirty(self) -> None:
        for site in ("kv_cache.layers.21.written", "transformer.blocks.21.ctrl_mlpfusion", "encoder.residuals.7"):
            assert FAMILY.sites.of(site) is not None
        assert FAMILY.sites.is_mask("kv_cache.layers.21.visible")
        assert FAMILY.sites.of("transformer.blocks.21.norm") is None

    @pytest.mark.parametrize(
        ("name", "sites"),
        [
            ("noise", {"input.noise"}),
            ("controls", {"input.button", "input.mouse", "input.scroll"}),
            ("button", {"input.button"}),
            ("image", {"input.image"}),
            ("prompt_pad_mask", {"input.prompt_pad_mask"}),
            ("latent", set()),
        ],
    )
    def test_a_difference_is_accepted_by_the_name_of_its_input(self, name: str, sites: set[str]) -> None:
        assert TABLE.accepted(name) == sites
        assert (name in TABLE.acceptable) == bool(sites)

    def test_a_taught_run_is_given_latents_and_rings_where_they_are_read(self) -> None:
        taught = {(row.name, phase) for row in TABLE.rows if row.taught for phase in row.phases}
        handed_on = {("patchify", "image"), ("patchify", "cache")}
        assert taught == handed_on | {(site, phase) for site in RINGS for phase in ("image", "cache")}
