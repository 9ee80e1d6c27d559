import pytest

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.sites import PARTS, site_table
from waypoint_parity.harness.run.family import Part, family_named, part_named
from waypoint_parity.harness.run.keys import Key

CONFIG = transformer_config()
TABLE = site_table(WaypointGeometry(CONFIG, autoencoder_config(CONFIG)))
FAMILY = family_named("waypoint")
PASSES = [("prompt", 0), ("image", 0), ("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0)]
SHOWN = [Key(0, phase, step, row.name) for phase, step in PASSES for row, _ in TABLE.shown(phase, step, [""])]


def key(site: str, phase: str = "denoise") -> Key:
    return Key(1, phase, 0, site)


def part_of(at: Key) -> Part:
    return part_named(TABLE.part_of(at), FAMILY)


def test_every_site_of_every_pass_belongs_to_one_part() -> None:
    for at in SHOWN:
        assert [part.name for part in PARTS if TABLE.shows(at, part.name)] == [part_of(at).name], at


def test_every_part_has_sites_and_a_name_of_its_own() -> None:
    assert {part_of(at).name for at in SHOWN} == {part.name for part in PARTS}
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_the_groups_are_those_that_a_user_can_name() -> None:
    named = "conditioning control prompt rope attention cache mlp head sampler autoencoder input"
    assert {part.group for part in PARTS} == {*named.split()}


@pytest.mark.parametrize(
    ("at", "part", "group"),
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
def test_a_site_s_part_and_group_go_by_its_name_and_where_it_must_its_phase(at: Key, part: str, group: str) -> None:
    assert (part_of(at).name, part_of(at).group) == (part, group)


def test_a_schedule_is_exchanged_with_the_latents_it_leads_to() -> None:
    schedule = "input.schedule"
    carried = [key("latent"), key("patchify", "cache"), key("decoder.conv_in", "decode")]
    assert all(TABLE.carries(at, schedule) and not TABLE.shows(at, schedule) for at in carried)
    assert not any(TABLE.carries(at, schedule) for at in (key("latent", "image"), key("patchify"), key("velocity")))


def test_a_cache_is_exchanged_with_the_attention_that_reads_it() -> None:
    assert TABLE.carries(key("transformer.blocks.2.attn"), "cache")
    assert not TABLE.carries(key("transformer.blocks.2.attn.q_proj"), "cache")


@pytest.mark.parametrize("site", ["transformer.blocks.0.norm", "xvelocity", "velocity.2"])
def test_a_name_that_is_no_site_has_no_part(site: str) -> None:
    with pytest.raises(ValueError, match="is no site of any part"):
        part_of(key(site))


def test_a_name_that_is_no_part_is_told_the_parts_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part is called attn[\s\S]*attention"):
        part_named("attn", FAMILY)
