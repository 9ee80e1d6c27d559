"""The table of sites: what each pass shows, and all that follows from a row."""

from collections import Counter
from graphlib import TopologicalSorter
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
from waypoint_parity.harness.families.waypoint.sites import PARTS, site_table
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


class TestWiring:
    @every_option
    @pytest.mark.parametrize("image", [False, True])
    def test_everything_that_is_read_is_a_site(self, options: dict[str, Any], image: bool) -> None:
        of = table(image=image, **options)
        assert {name for row in of.rows for name in (*row.reads, *row.around)} <= names(of)

    @every_option
    @pytest.mark.parametrize("phase", PHASES)
    def test_every_site_of_a_pass_reads_others_unless_it_is_an_input(self, options: dict[str, Any], phase: str) -> None:
        of = table(**options)
        assert {site for site in sites_of(phase, of=of) if not of.reads(site)} == {
            site for site in sites_of(phase, of=of) if is_input(site)
        }

    @every_option
    def test_a_site_reads_what_its_pass_has_shown_before_it_or_what_a_pass_before_left_behind(
        self, options: dict[str, Any]
    ) -> None:
        of = table(**options)
        left = {site for site in names(of) if site == "latent" or ring_part(site) in ("kv", "written")}
        # No cycle but through what is left behind.
        TopologicalSorter({site: set(of.reads(site)) - left for site in names(of)}).prepare()
        for phase in PHASES:
            shown = sites_of(phase, of=of)
            # Of an image the latent is the encoder's: no step led to it.
            for site in set(shown) - ({"latent"} if phase == "image" else set()):
                later = set(shown[shown.index(site) :]) - left
                assert not later & set(of.reads(site)), site

    def test_what_a_block_reads(self) -> None:
        of, attn, ring = "transformer.blocks.2", "transformer.blocks.2.attn", "kv_cache.layers.2"
        stream = ("transformer.blocks.1", f"{of}.cond_head", attn)
        assert {site: TABLE.reads(site) for site in block(2, "ctrl_mlpfusion")} == {
            f"{of}.cond_head": ("denoise_step_emb",),
            **dict.fromkeys((f"{attn}.{name}_proj" for name in ("q", "k", "v", "gate")), stream[:2]),
            f"{attn}.q_rope": (f"{attn}.q_proj", "input.timestamp"),
            f"{attn}.k_rope": (f"{attn}.k_proj", "input.timestamp"),
            f"{ring}.visible": (f"{ring}.written", "input.timestamp"),
            attn: (
                *(f"{attn}.{name}" for name in ("q_rope", "k_rope", "v_proj", "gate_proj")),
                *(f"{ring}.{part}" for part in ("visible", "kv")),
            ),
            f"{of}.ctrl_mlpfusion": (*stream, "ctrl_emb"),
            f"{of}.mlp": (*stream, f"{of}.ctrl_mlpfusion"),
            of: (*stream, f"{of}.ctrl_mlpfusion", f"{of}.mlp"),
        }

    @pytest.mark.parametrize(
        ("site", "reads"),
        [
            ("denoise_step_emb", {"input.sigma"}),
            ("ctrl_emb", set(CONTROLS)),
            ("patchify", {"input.noise", "latent"}),
            ("transformer.blocks.0.mlp", {f"transformer.blocks.0.{name}" for name in (
                "cond_head", "attn", "prompt_cross_attn", "ctrl_mlpfusion")} | {"patchify"}),
            ("transformer.blocks.0.prompt_cross_attn", {f"transformer.blocks.0.{name}" for name in (
                "cond_head", "attn")} | {"patchify", "input.prompt_emb"}),
            ("kv_cache.layers.1.written", {"input.timestamp"}),
            ("kv_cache.layers.1.kv", {
                "transformer.blocks.1.attn.k_rope", "transformer.blocks.1.attn.v_proj", "kv_cache.layers.1.written"}),
            ("out_norm", {"transformer.blocks.2", "denoise_step_emb"}),
            ("velocity", {"out_norm"}),
            ("latent", {"velocity", "input.noise", "input.sigma", "encoder.conv_out"}),
            ("encoder.conv_in", {"input.image"}),
            ("decoder.conv_in", {"latent"}),
            ("decoder.residuals.3", {"decoder.blocks.2", "decoder.residuals.2"}),
            ("decoder.conv_out", {"decoder.blocks.7", "decoder.residuals.7"}),
            ("frame", {"decoder.conv_out"}),
        ],
    )  # fmt: skip
    def test_what_the_sites_around_the_blocks_read(self, site: str, reads: set[str]) -> None:
        assert set(TABLE.reads(site)) == reads

    def test_a_value_residual_has_later_layers_read_the_first_ones_values(self) -> None:
        first, residual = "transformer.blocks.0.attn.v_proj", table(value_residual=True)
        for site in ("transformer.blocks.2.attn", "kv_cache.layers.2.kv"):
            assert first not in TABLE.reads(site)
            assert set(residual.reads(site)) == {*TABLE.reads(site), first}

    def test_a_gate_is_read_where_there_are_gates(self) -> None:
        gate, ungated = "transformer.blocks.1.attn.gate_proj", table(gated_attn=False)
        assert gate in TABLE.reads("transformer.blocks.1.attn")
        assert ungated.of(gate) is None
        assert gate not in ungated.reads("transformer.blocks.1.attn")

    def test_only_the_layers_that_attend_to_the_prompt_or_the_controls_read_them(self) -> None:
        for layer, extra in ((0, {"prompt_cross_attn", "ctrl_mlpfusion"}), (1, set()), (2, {"ctrl_mlpfusion"})):
            of = f"transformer.blocks.{layer}"
            branches = {f"{of}.{part}" for part in ("prompt_cross_attn", "ctrl_mlpfusion")}
            assert set(TABLE.reads(of)) & branches == {f"{of}.{part}" for part in extra}
            assert names(TABLE) & branches == {f"{of}.{part}" for part in extra}

    def test_a_seed_image_reaches_the_latent_through_the_encoder(self) -> None:
        assert "encoder.conv_out" in TABLE.reads("latent")
        assert not any("encoder" in name for name in table(image=False).reads("latent"))

    def test_a_session_knows_its_schedule_and_its_clock_whatever_is_patched(self) -> None:
        known = {site: TABLE.around(site) for site in names(TABLE) if TABLE.around(site)}
        rings = (f"kv_cache.layers.{layer}.{part}" for layer in range(3) for part in ("written", "visible"))
        assert known == {"latent": ("input.sigma",), **dict.fromkeys(rings, ("input.timestamp",))}

    def test_mixed_values_reach_the_ring_whatever_is_patched(self) -> None:
        residual = table(value_residual=True)
        reached = {site: residual.around(site) for site in RINGS if site.endswith(".kv")}
        assert reached == {
            "kv_cache.layers.0.kv": (),
            "kv_cache.layers.1.kv": ("transformer.blocks.1.attn",),
            "kv_cache.layers.2.kv": ("transformer.blocks.2.attn",),
        }


SHOWN = [Key(0, phase, step, site) for phase, step in PASSES for site in sites_of(phase, step)]
GROUPS = {part.name: part.group for part in PARTS}


class TestParts:
    def test_a_site_has_one_part_in_every_phase(self) -> None:
        parts = {(row.name, phase): row.part for row in TABLE.rows for phase in row.phases}
        assert len(parts) == sum(len(row.phases) for row in TABLE.rows)
        assert all(TABLE.part_of(at) == parts[at.site, at.phase] for at in SHOWN)

    def test_every_part_has_sites_and_a_name_of_its_own(self) -> None:
        assert {TABLE.part_of(at) for at in SHOWN} == GROUPS.keys()
        assert len(GROUPS) == len(PARTS) == 25
        assert TABLE.parts_at(at.site for at in SHOWN) == GROUPS.keys()

    def test_parts_are_in_the_order_in_which_a_frame_first_shows_them(self) -> None:
        shown = list(dict.fromkeys(TABLE.part_of(at) for at in SHOWN if at.phase in ("denoise", "decode")))
        assert [part.name for part in PARTS if part.name in shown] == shown

    def test_the_groups_are_those_that_a_user_can_name(self) -> None:
        named = "conditioning control prompt rope attention cache mlp head sampler autoencoder input"
        assert sorted(set(GROUPS.values())) == sorted(named.split())

    def test_the_places_are_those_of_the_pipeline(self) -> None:
        places = list(dict.fromkeys(part.place for part in PARTS))
        assert places == ["input", "transformer", "cache", "sampler", "decoder", "after the decoder"]
        assert {part.name for part in PARTS if part.whole} == {"encoder", "image latent", "decoder", "picture"}

    @pytest.mark.parametrize(
        ("at", "part", "group"),
        [
            (key("latent"), "sampler", "sampler"),
            (key("latent", "image"), "image latent", "autoencoder"),
            (key("input.sigma"), "input.schedule", "input"),
            (key("input.prompt_pad_mask", "prompt"), "input.prompt", "input"),
            (key("transformer.blocks.11.attn.gate_proj"), "projections", "attention"),
            (key("transformer.blocks.11.attn.k_rope"), "rotation", "rope"),
            (key("transformer.blocks.11.attn"), "attention", "attention"),
            (key("transformer.blocks.11.mlp"), "mlp", "mlp"),
            (key("transformer.blocks.11"), "residual", "mlp"),
            (key("kv_cache.layers.0.visible"), "cache", "cache"),
            (key("decoder.residuals.3", "decode"), "decoder", "autoencoder"),
            (key("frame", "decode"), "picture", "autoencoder"),
        ],
    )
    def test_a_sites_part_and_group_go_by_its_name_and_where_it_must_its_phase(
        self, at: Key, part: str, group: str
    ) -> None:
        assert (TABLE.part_of(at), GROUPS[TABLE.part_of(at)]) == (part, group)

    @every_option
    def test_what_is_exchanged_with_a_part_though_it_is_anothers(self, options: dict[str, Any]) -> None:
        of, carried = table(**options), Counter[tuple[str, str, str]]()
        for phase, step in PASSES:
            for at in (Key(0, phase, step, site) for site in sites_of(phase, step, of)):
                carried.update((part.name, _layerless(at.site), phase) for part in PARTS if of.carries(at, part.name))
        layers = sum(name.endswith(".kv") for name in names(of))
        assert carried == {
            # A schedule goes with the latents that it leads to, and with what is made of the last one.
            ("input.schedule", "latent", "denoise"): 2,
            ("input.schedule", "patchify", "cache"): 1,
            ("input.schedule", "decoder.conv_in", "decode"): 1,
            # What a pass sees of a ring may be shown and not patched: it acts through the attention.
            ("cache", "transformer.blocks.*.attn", "image"): layers,
            ("cache", "transformer.blocks.*.attn", "denoise"): 2 * layers,
            ("cache", "transformer.blocks.*.attn", "cache"): layers,
            # With a value residual the ring stores what the attention mixed.
            ("attention", "kv_cache.layers.*.kv", "image"): layers,
            ("attention", "kv_cache.layers.*.kv", "cache"): layers,
        }

    def test_two_sites_are_made_of_a_frames_final_latent(self) -> None:
        handed_on = [(at.site, at.phase) for at in SHOWN if TABLE.takes_final(at)]
        assert handed_on == [("patchify", "cache"), ("decoder.conv_in", "decode")]

    @pytest.mark.parametrize("site", ["transformer.blocks.0.norm", "xvelocity", "velocity.2"])
    def test_a_name_that_is_no_site_has_no_part(self, site: str) -> None:
        with pytest.raises(ValueError, match="is no site of any part"):
            TABLE.part_of(key(site))


def _layerless(site: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in site.split("."))
