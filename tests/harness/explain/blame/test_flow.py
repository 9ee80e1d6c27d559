from graphlib import TopologicalSorter

import pytest

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.explain.blame.flow import Flow, exposed_to, flow
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.sites import every_site, pass_sites
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.keys import Phase, is_input, ring_part

CONFIG = transformer_config()
AUTOENCODER = autoencoder_config(CONFIG)
CONFIGS = (
    CONFIG,
    transformer_config(value_residual=True, gated_attn=False),
    transformer_config(prompt_conditioning=None, prompt_conditioning_period=None, prompt_embedding_dim=None),
    transformer_config(ctrl_conditioning=None, ctrl_conditioning_period=None, n_layers=2),
)
PHASES: tuple[Phase, ...] = ("prompt", "image", "denoise", "cache", "decode")


def wiring(config: TransformerConfig = CONFIG, *, image: bool = True) -> Flow:
    return flow(config, autoencoder_config(config), image=image)


def reads(site: str, config: TransformerConfig = CONFIG) -> set[str]:
    return set(wiring(config).reads[site])


def exposed(site: str, *patched: str, config: TransformerConfig = CONFIG) -> list[str]:
    return exposed_to(site, wiring(config), patched)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("image", [False, True])
def test_everything_in_the_wiring_is_a_site(config: TransformerConfig, image: bool) -> None:
    sites = every_site(config, autoencoder_config(config))
    of = wiring(config, image=image)
    for reading in (of.reads, of.around):
        assert {*reading, *(name for read in reading.values() for name in read)} <= sites


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("phase", PHASES)
def test_every_site_of_a_pass_reads_others_unless_it_is_an_input(config: TransformerConfig, phase: Phase) -> None:
    sites = pass_sites(config, autoencoder_config(config), Pass(phase))
    of = wiring(config).reads
    assert {site for site in sites if site not in of} == {site for site in sites if is_input(site)}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_site_reads_what_its_pass_has_shown_before_it_or_what_a_pass_before_left_behind(
    config: TransformerConfig,
) -> None:
    of = wiring(config).reads
    left = {site for site in of if site == "latent" or ring_part(site) in ("kv", "written")}
    # No cycle but through what is left behind.
    TopologicalSorter({site: set(read) - left for site, read in of.items()}).prepare()
    for phase in PHASES:
        shown = pass_sites(config, autoencoder_config(config), Pass(phase))
        # Of an image the latent is the encoder's: no step led to it.
        for site in set(shown) - ({"latent"} if phase == "image" else set()):
            later = set(shown[shown.index(site) :]) - left
            assert not later & set(of.get(site, ())), site


def test_a_value_residual_has_later_layers_read_the_first_ones_values() -> None:
    first, residual = "transformer.blocks.0.attn.v_proj", transformer_config(value_residual=True)
    for site in ("transformer.blocks.2.attn", "kv_cache.layers.2.kv"):
        assert first not in reads(site)
        assert first in reads(site, residual)
    assert wiring().around.keys() ^ wiring(residual).around.keys() == {f"kv_cache.layers.{i}.kv" for i in (1, 2)}


def test_a_gate_is_read_where_there_are_gates() -> None:
    gate = "transformer.blocks.1.attn.gate_proj"
    assert gate in reads("transformer.blocks.1.attn")
    assert gate not in wiring(transformer_config(gated_attn=False)).reads
    assert gate not in reads("transformer.blocks.1.attn", transformer_config(gated_attn=False))


def test_only_the_layers_that_attend_to_the_prompt_or_the_controls_read_them() -> None:
    # Every third layer attends to the prompt, every second one to the controls.
    for layer, extra in ((0, {"prompt_cross_attn", "ctrl_mlpfusion"}), (1, set()), (2, {"ctrl_mlpfusion"})):
        block = f"transformer.blocks.{layer}"
        branches = {f"{block}.{part}" for part in ("prompt_cross_attn", "ctrl_mlpfusion")}
        assert reads(block) & branches == {f"{block}.{part}" for part in extra}
        assert wiring().reads.keys() & branches == reads(block) & branches
    assert "input.prompt_emb" in reads("transformer.blocks.0.prompt_cross_attn")
    assert "ctrl_emb" in reads("transformer.blocks.2.ctrl_mlpfusion")


def test_a_seed_image_reaches_the_latent_through_the_encoder() -> None:
    assert "encoder.conv_out" in wiring(image=True).reads["latent"]
    assert not any("encoder" in name for name in ("latent", *wiring(image=False).reads["latent"]))
    assert exposed("encoder.conv_out")[-1] == "input.image"


def test_a_site_is_exposed_to_nothing_that_is_not_computed_of_where_all_is_patched() -> None:
    sites = every_site(CONFIG, AUTOENCODER)
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
    assert exposed(site, *every_site(CONFIG, AUTOENCODER)) == ([] if known is None else [known])


def test_mixed_values_reach_the_ring_though_the_attention_is_patched() -> None:
    residual = transformer_config(value_residual=True)
    found = exposed("kv_cache.layers.1.kv", *every_site(residual, AUTOENCODER), config=residual)
    assert found == ["transformer.blocks.1.attn"]
