from graphlib import TopologicalSorter

import pytest

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.explain.blame.wiring import Wiring
from waypoint_parity.harness.families.waypoint.config import TransformerConfig, WaypointGeometry
from waypoint_parity.harness.families.waypoint.sites import PARTS, site_table
from waypoint_parity.harness.run.keys import Order, is_input
from waypoint_parity.harness.run.sites import SiteTable

CONFIG = transformer_config()
CONFIGS = (
    CONFIG,
    transformer_config(value_residual=True, gated_attn=False),
    transformer_config(prompt_conditioning=None, prompt_conditioning_period=None, prompt_embedding_dim=None),
    transformer_config(ctrl_conditioning=None, ctrl_conditioning_period=None, n_layers=2),
)
PHASES = ("prompt", "image", "denoise", "cache", "decode")


def table(config: TransformerConfig = CONFIG, *, image: bool = True) -> SiteTable:
    return site_table(WaypointGeometry(config, autoencoder_config(config)), image=image)


def names(config: TransformerConfig = CONFIG) -> set[str]:
    """Every site."""
    return {row.name for row in table(config).rows}


def reads(site: str, config: TransformerConfig = CONFIG) -> set[str]:
    return set(table(config).reads(site))


def shown(config: TransformerConfig, phase: str) -> list[str]:
    """The sites of a pass, in the order of execution."""
    return [row.name for row, _ in table(config).shown(phase, 0, [""])]


def exposed(site: str, *patched: str, config: TransformerConfig = CONFIG) -> list[str]:
    return Wiring(PARTS, table(config), Order([])).exposed_to(site, patched)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("image", [False, True])
def test_everything_in_the_wiring_is_a_site(config: TransformerConfig, image: bool) -> None:
    sites = names(config)
    for row in table(config, image=image).rows:
        assert {*row.reads, *row.around} <= sites


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("phase", PHASES)
def test_every_site_of_a_pass_reads_others_unless_it_is_an_input(config: TransformerConfig, phase: str) -> None:
    sites = shown(config, phase)
    assert {site for site in sites if not reads(site, config)} == {site for site in sites if is_input(site)}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_site_reads_what_its_pass_has_shown_before_it_or_what_a_pass_before_left_behind(
    config: TransformerConfig,
) -> None:
    of = {site: reads(site, config) for site in names(config)}
    left = {site for site in of if site == "latent" or site.endswith((".kv", ".written"))}
    # No cycle but through what is left behind.
    TopologicalSorter({site: read - left for site, read in of.items()}).prepare()
    for phase in PHASES:
        sites = shown(config, phase)
        # Of an image the latent is the encoder's: no step led to it.
        for site in set(sites) - ({"latent"} if phase == "image" else set()):
            later = set(sites[sites.index(site) :]) - left
            assert not later & of[site], site


def test_what_a_block_reads() -> None:
    block, attn, ring = "transformer.blocks.2", "transformer.blocks.2.attn", "kv_cache.layers.2"
    stream = ("transformer.blocks.1", f"{block}.cond_head", attn)
    expected: dict[str, tuple[str, ...]] = {
        f"{block}.cond_head": ("denoise_step_emb",),
        **dict.fromkeys((f"{attn}.{name}_proj" for name in ("q", "k", "v", "gate")), stream[:2]),
        f"{attn}.q_rope": (f"{attn}.q_proj", "input.timestamp"),
        f"{attn}.k_rope": (f"{attn}.k_proj", "input.timestamp"),
        f"{ring}.visible": (f"{ring}.written", "input.timestamp"),
        attn: (
            *(f"{attn}.{name}" for name in ("q_rope", "k_rope", "v_proj", "gate_proj")),
            *(f"{ring}.{part}" for part in ("visible", "kv")),
        ),
        f"{block}.ctrl_mlpfusion": (*stream, "ctrl_emb"),
        f"{block}.mlp": (*stream, f"{block}.ctrl_mlpfusion"),
        block: (*stream, f"{block}.ctrl_mlpfusion", f"{block}.mlp"),
        f"{ring}.written": ("input.timestamp",),
        f"{ring}.kv": (f"{attn}.k_rope", f"{attn}.v_proj", f"{ring}.written"),
    }
    of = table()
    found = {name: of.reads(name) for name in names() if name == block or name.startswith((f"{block}.", f"{ring}."))}
    assert found == expected


def test_what_lies_around_the_blocks_reads() -> None:
    first = "transformer.blocks.0"
    expected = {
        "encoder.conv_in": {"input.image"},
        "encoder.blocks.0": {"encoder.conv_in"},
        "denoise_step_emb": {"input.sigma"},
        "ctrl_emb": {"input.button", "input.mouse", "input.scroll"},
        "patchify": {"input.noise", "latent"},
        f"{first}.attn.q_proj": {"patchify", f"{first}.cond_head"},
        f"{first}.prompt_cross_attn": {"patchify", f"{first}.cond_head", f"{first}.attn", "input.prompt_emb"},
        "out_norm": {"transformer.blocks.2", "denoise_step_emb"},
        "velocity": {"out_norm"},
        "latent": {"velocity", "input.noise", "input.sigma", "encoder.conv_out"},
        "decoder.conv_in": {"latent"},
        "decoder.residuals.3": {"decoder.blocks.2", "decoder.residuals.2"},
        "decoder.conv_out": {"decoder.blocks.7", "decoder.residuals.7"},
        "frame": {"decoder.conv_out"},
    }
    assert {site: reads(site) for site in expected} == expected


def test_a_value_residual_has_later_layers_read_the_first_ones_values() -> None:
    first, residual = "transformer.blocks.0.attn.v_proj", transformer_config(value_residual=True)
    for site in ("transformer.blocks.2.attn", "kv_cache.layers.2.kv"):
        assert first not in reads(site)
        assert first in reads(site, residual)


def test_errors_that_reach_a_site_whatever_is_patched() -> None:
    rings = (f"kv_cache.layers.{layer}.{part}" for layer in range(3) for part in ("written", "visible"))
    known = {"latent": ("input.sigma",), **dict.fromkeys(rings, ("input.timestamp",))}
    mixed = {f"kv_cache.layers.{layer}.kv": (f"transformer.blocks.{layer}.attn",) for layer in (1, 2)}
    residual = transformer_config(value_residual=True)
    for config, expected in ((CONFIG, known), (residual, known | mixed)):
        of = table(config)
        assert {site: of.around(site) for site in names(config) if of.around(site)} == expected


def test_a_gate_is_read_where_there_are_gates() -> None:
    gate = "transformer.blocks.1.attn.gate_proj"
    assert gate in reads("transformer.blocks.1.attn")
    assert gate not in names(transformer_config(gated_attn=False))
    assert gate not in reads("transformer.blocks.1.attn", transformer_config(gated_attn=False))


def test_only_the_layers_that_attend_to_the_prompt_or_the_controls_read_them() -> None:
    # Every third layer attends to the prompt, every second one to the controls.
    for layer, extra in ((0, {"prompt_cross_attn", "ctrl_mlpfusion"}), (1, set()), (2, {"ctrl_mlpfusion"})):
        block = f"transformer.blocks.{layer}"
        branches = {f"{block}.{part}" for part in ("prompt_cross_attn", "ctrl_mlpfusion")}
        assert reads(block) & branches == {f"{block}.{part}" for part in extra}
        assert names() & branches == reads(block) & branches
    assert "input.prompt_emb" in reads("transformer.blocks.0.prompt_cross_attn")
    assert "ctrl_emb" in reads("transformer.blocks.2.ctrl_mlpfusion")


def test_a_seed_image_reaches_the_latent_through_the_encoder() -> None:
    assert "encoder.conv_out" in table(image=True).reads("latent")
    assert not any("encoder" in name for name in ("latent", *table(image=False).reads("latent")))
    assert exposed("encoder.conv_out")[-1] == "input.image"


def test_a_site_is_exposed_to_nothing_that_is_not_computed_of_where_all_is_patched() -> None:
    sites = names()
    assert exposed("transformer.blocks.1.mlp", *sites) == []
    assert exposed("frame", *sites) == []


def test_a_site_is_exposed_to_what_lies_between_it_and_the_patched_sites_nearest_first() -> None:
    # Block 1 without a part that is patched, between two blocks that are.
    blocks = [f"transformer.blocks.{layer}" for layer in range(3)]
    found = exposed(blocks[1], *blocks, "denoise_step_emb")
    part = f"{blocks[1]}."
    assert all(site.startswith((part, "kv_cache.layers.1.")) or site == "input.timestamp" for site in found)
    assert found.index(f"{part}mlp") < found.index(f"{part}attn.q_proj")
    assert found.count(f"{part}cond_head") == 1
    assert f"{blocks[0]}.mlp" not in found


def test_a_cycle_through_the_latent_of_the_step_before_ends() -> None:
    assert {"latent", "velocity", "input.noise"} <= set(exposed("patchify"))
    assert "patchify" not in exposed("patchify"), "a site's own error is its own"


@pytest.mark.parametrize(
    ("site", "known"),
    [("latent", "input.sigma"), ("kv_cache.layers.1.visible", "input.timestamp"), ("velocity", None)],
)
def test_a_session_knows_its_schedule_and_its_clock_though_the_sites_that_show_them_are_patched(
    site: str, known: str | None
) -> None:
    assert exposed(site, *names()) == ([] if known is None else [known])


def test_mixed_values_reach_the_ring_though_the_attention_is_patched() -> None:
    residual = transformer_config(value_residual=True)
    found = exposed("kv_cache.layers.1.kv", *names(residual), config=residual)
    assert found == ["transformer.blocks.1.attn"]
