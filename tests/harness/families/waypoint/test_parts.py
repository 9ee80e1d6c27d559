import pytest

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.sites import PARTS, site_table
from waypoint_parity.harness.run.family import Part, family_named, part_named
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.sites import kind_of

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


def test_parts_are_in_the_order_in_which_a_frame_first_shows_them() -> None:
    shown = list(dict.fromkeys(TABLE.part_of(at) for at in SHOWN if at.phase in ("denoise", "decode")))
    assert [part.name for part in PARTS if part.name in shown] == shown


def test_the_places_are_those_of_the_pipeline() -> None:
    places = list(dict.fromkeys(part.place for part in PARTS))
    assert places == ["input", "transformer", "cache", "sampler", "decoder", "after the decoder"]
    assert {part.name for part in PARTS if part.whole} == {"encoder", "image latent", "decoder", "picture"}


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


def test_what_is_exchanged_with_a_part_though_it_is_anothers() -> None:
    carried = [(part.name, at) for part in PARTS for at in SHOWN if TABLE.carries(at, part.name)]
    assert {(part, at.phase, kind_of(at.site)) for part, at in carried} == {
        # A schedule goes with the latents that it leads to, and with what is made of the last one.
        ("input.schedule", "denoise", "latent"),
        ("input.schedule", "cache", "patchify"),
        ("input.schedule", "decode", "decoder.conv_in"),
        # What a pass sees of a ring may be shown and not patched: it acts through the attention.
        *(("cache", phase, "transformer.blocks.*.attn") for phase in ("image", "denoise", "cache")),
        # With a value residual the ring stores what the attention mixed.
        *(("attention", phase, "kv_cache.layers.*.kv") for phase in ("image", "cache")),
    }
    assert not any(TABLE.shows(at, part) for part, at in carried)


def test_two_sites_are_made_of_a_frames_final_latent() -> None:
    handed_on = [(at.phase, at.site) for at in SHOWN if TABLE.takes_final(at)]
    assert handed_on == [("cache", "patchify"), ("decode", "decoder.conv_in")]


@pytest.mark.parametrize("site", ["transformer.blocks.0.norm", "xvelocity", "velocity.2"])
def test_a_name_that_is_no_site_has_no_part(site: str) -> None:
    with pytest.raises(ValueError, match="is no site of any part"):
        part_of(key(site))


def test_a_name_that_is_no_part_is_told_the_parts_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part is called attn[\s\S]*attention"):
        part_named("attn", FAMILY)
