import pytest

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.explain.blame.parts import FAMILIES, PARTS, part_named, part_of
from waypoint_parity.harness.families.waypoint.sites import pass_sites
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.keys import Key, Phase

CONFIG = transformer_config()
PASSES: list[tuple[Phase, int]] = [
    ("prompt", 0),
    ("image", 0),
    ("denoise", 0),
    ("denoise", 1),
    ("cache", 0),
    ("decode", 0),
]
SHOWN = [
    Key(0, phase, step, site)
    for phase, step in PASSES
    for site in pass_sites(CONFIG, autoencoder_config(CONFIG), Pass(phase, step))
]


def key(site: str, phase: Phase = "denoise") -> Key:
    return Key(1, phase, 0, site)


def test_every_site_of_every_pass_belongs_to_one_part() -> None:
    for at in SHOWN:
        assert [part.name for part in PARTS if part.shows(at)] == [part_of(at).name], at


def test_every_part_has_sites_and_a_name_of_its_own() -> None:
    assert {part_of(at).name for at in SHOWN} == {part.name for part in PARTS}
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_the_families_are_those_that_a_user_can_name() -> None:
    named = "conditioning control prompt rope attention cache mlp head sampler autoencoder input"
    assert sorted(FAMILIES) == sorted(named.split())


@pytest.mark.parametrize(
    ("at", "part", "family"),
    [
        (key("latent"), "sampler", "sampler"),
        (key("latent", "image"), "image latent", "autoencoder"),
        (key("input.sigma"), "input.schedule", "input"),
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
def test_a_site_s_part_and_family_go_by_its_name_and_where_it_must_its_phase(at: Key, part: str, family: str) -> None:
    assert (part_of(at).name, part_of(at).family) == (part, family)


def test_a_schedule_is_exchanged_with_the_latents_it_leads_to() -> None:
    schedule = part_named("input.schedule")
    carried = [key("latent"), key("patchify", "cache"), key("decoder.conv_in", "decode")]
    assert all(schedule.carries(at) and not schedule.shows(at) for at in carried)
    assert not any(schedule.carries(at) for at in (key("latent", "image"), key("patchify"), key("velocity")))


def test_a_cache_is_exchanged_with_the_attention_that_reads_it() -> None:
    cache = part_named("cache")
    assert cache.carries(key("transformer.blocks.2.attn"))
    assert not cache.carries(key("transformer.blocks.2.attn.q_proj"))


@pytest.mark.parametrize("site", ["transformer.blocks.0.norm", "xvelocity", "velocity.2"])
def test_a_name_that_is_no_site_has_no_part(site: str) -> None:
    with pytest.raises(ValueError, match="is no site of any part"):
        part_of(key(site))


def test_a_name_that_is_no_part_is_told_the_parts_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part is called attn[\s\S]*attention"):
        part_named("attn")
