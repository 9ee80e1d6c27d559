from collections.abc import Collection, Mapping

import pytest

from tests.harness.explain.blame.candidates import TABLE
from tests.harness.observations import FAMILY, SAME, off_by
from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.explain.blame.findings import Finding, findings
from waypoint_parity.harness.explain.blame.local import LocalErrors
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.wiring import Wiring
from waypoint_parity.harness.families.waypoint.scenario import session_passes
from waypoint_parity.harness.run.keys import At, Key, Order
from waypoint_parity.harness.run.sites import Kind

SESSION = [at.at(frame) for frame, at in session_passes(2, 2, prompt=True, image=True)]
WIRING = Wiring(FAMILY.parts, TABLE, Order(SESSION))
SITES = frozenset(row.name for row in TABLE.rows)
NOISE = Noise(levels={}, pictures=None)
ROUNDOFF = 2.0**-24
FREE = 3.9 * ROUNDOFF
WRONG = off_by(0.1)
BLOCK = "transformer.blocks.{}"


def key(site: str, unit: int = 0, phase: str = "denoise", step: int = 0) -> Key:
    return Key(unit, phase, step, site)


def local(
    wrong: Mapping[Key, Error], *, patched: Collection[str] = SITES, shown: Collection[str] = SITES
) -> LocalErrors:
    """The local errors of a session that shows `wrong`, and the same at all other sites `shown`."""
    errors = {key(site): SAME for site in sorted(shown)} | dict(wrong)
    exact = ("input.timestamp", "frame")
    return LocalErrors(set(patched), errors, {at: 0.0 if at.site in exact else ROUNDOFF for at in errors})


def found(of: LocalErrors, accepted: Collection[str] = ()) -> dict[str, Finding]:
    return {finding.part: finding for finding in findings(of, NOISE, WIRING, accepted)}


def test_nothing_wrong_finds_nothing() -> None:
    assert found(local({})) == {}


@pytest.mark.parametrize(("size", "parts"), [(FREE, set()), (1.1 * FREE, {"velocity"})])
def test_only_what_is_more_than_noise_is_found(size: float, parts: set[str]) -> None:
    assert found(local({key("velocity"): off_by(size)})).keys() == parts


def test_errors_are_gathered_by_part_and_told_in_the_order_of_execution() -> None:
    at = [key("velocity"), key("velocity", unit=1), key("decoder.blocks.1", phase="decode")]
    parts = found(local(dict.fromkeys(reversed(at), WRONG)))
    assert list(parts) == ["velocity", "decoder"]
    assert {seen.key for seen in parts["velocity"].errors} == set(at[:2])
    (seen,) = parts["decoder"].errors
    assert (seen.rel_l2, seen.bound) == (0.1, NOISE.bound("decoder.blocks.1", Kind.ACTIVATION, ROUNDOFF))
    # Those of the part that are right count as observed.
    assert parts["velocity"].observed == 2


def test_a_part_of_some_blocks_is_told_with_them_and_of_all_blocks_without() -> None:
    some = found(local({key(f"{BLOCK}.mlp".format(1)): WRONG}))["mlp"]
    assert (some.blocks, some.exchange.name) == ([1], "mlp of block 1")
    everywhere = found(local({key(f"{BLOCK}.mlp".format(block)): WRONG for block in range(3)}))["mlp"]
    assert (everywhere.blocks, everywhere.exchange.name) == (None, "mlp")
    # Only blocks 0 and 2 have the part.
    fusion = found(local({key(f"{BLOCK}.ctrl_mlpfusion".format(block)): WRONG for block in (0, 2)}))
    assert fusion["control fusion"].blocks is None


def test_what_belongs_to_no_block_serves_all_of_them() -> None:
    """The angles of a rotation, of Waypoint 1.5, are made once."""
    both = Wiring(FAMILY.parts, FAMILY.sites, Order(SESSION))
    wrong = local({key("transformer.rope_angles"): WRONG}, shown=SITES | {"transformer.rope_angles"})
    (finding,) = findings(wrong, NOISE, both, ())
    assert (finding.part, finding.blocks) == ("rotation", None)


def test_stages_of_the_autoencoder_are_no_blocks() -> None:
    assert found(local({key("decoder.blocks.1", phase="decode"): WRONG}))["decoder"].blocks is None


def test_inputs_and_masks_may_not_be_off_at_all_unless_they_are_accepted() -> None:
    wrong = {key("input.mouse"): off_by(1e-9), key("kv_cache.layers.1.visible"): off_by(1e-9)}
    assert found(local(wrong)).keys() == {"input.controls", "cache"}
    assert found(local(wrong), {"input.mouse"}).keys() == {"cache"}


def test_what_has_no_distance_is_found_with_the_reason() -> None:
    (seen,) = found(local({key("velocity"): no_distance("shape [2], not [1]")}))["velocity"].errors
    assert (seen.rel_l2, seen.note) == (None, "shape [2], not [1]")


def test_an_error_that_comes_through_sites_that_are_not_patched_is_not_the_site_s_own() -> None:
    loud, block, after = key("transformer.blocks.1.mlp"), key("transformer.blocks.1"), key("transformer.blocks.2.mlp")
    both = {loud: WRONG, block: WRONG}
    assert found(local(both, patched=SITES - {loud.site})).keys() == {"mlp"}
    assert found(local(both)).keys() == {"mlp", "residual"}
    # A patched site ends the way of an error: what lies behind it is its own.
    assert found(local({loud: WRONG, after: WRONG}, patched=SITES - {loud.site}))["mlp"].blocks == [1, 2]


def test_an_error_of_another_pass_excuses_nothing() -> None:
    wrong = {key("transformer.blocks.1.mlp"): WRONG, key("transformer.blocks.1", step=1): WRONG}
    assert found(local(wrong, patched=SITES - {"transformer.blocks.1.mlp"})).keys() == {"mlp", "residual"}


def test_a_wrong_schedule_excuses_the_latents_of_its_frame() -> None:
    wrong = {key("input.sigma", step=1): WRONG, key("latent"): WRONG}
    assert found(local(wrong)).keys() == {"input.schedule"}
    assert found(local(wrong | {key("latent", unit=1): WRONG})).keys() == {"input.schedule", "sampler"}


def test_the_sites_that_are_not_shown_and_could_be_to_blame_are_the_region() -> None:
    mapped = {*map(BLOCK.format, range(3)), "velocity", "latent", "frame"}
    of = local({key("transformer.blocks.1"): WRONG}, patched=mapped, shown=mapped)
    region = found(of)["residual"].region
    assert {"transformer.blocks.1.mlp", "transformer.blocks.1.attn", "kv_cache.layers.1.kv"} <= set(region)
    assert region.index("transformer.blocks.1.mlp") < region.index("transformer.blocks.1.attn.q_proj")
    assert not any(site.startswith(("transformer.blocks.0", "transformer.blocks.2")) for site in region)
    # Where all is shown and patched there is no such region.
    assert found(local({key("transformer.blocks.1"): WRONG}))["residual"].region == []


def test_a_pass_of_one_side_only_is_the_schedule_s_and_says_whose_it_is() -> None:
    of = local({})
    of.alone = [(At(0, "denoise", 2), "candidate")]
    (seen,) = found(of)["input.schedule"].errors
    assert seen.key == key("input.sigma", step=2)
    assert (seen.rel_l2, seen.note) == (None, "only the candidate has this pass")


@pytest.mark.parametrize(
    ("at", "site"),
    [
        (At(0, "prompt", 0), "input.prompt_emb"),
        (At(0, "image", 0), "latent"),
        (At(0, "denoise", 2), "input.sigma"),
        (At(0, "cache", 0), "kv_cache.layers.0.written"),
        (At(0, "decode", 0), "frame"),
    ],
)
def test_a_pass_of_one_side_only_is_the_error_of_the_site_that_it_is_run_for(at: At, site: str) -> None:
    of = local({})
    of.alone = [(at, "reference")]
    ((finding,),) = [list(found(of).values())]
    assert [seen.key for seen in finding.errors] == [Key(*at, site)]


def test_what_a_cache_pass_does_not_show_is_the_cache_s() -> None:
    of = local({})
    of.lacking = [key("patchify", phase="cache"), key("transformer.blocks.0.mlp", phase="cache")]
    assert found(of).keys() == {"cache"}
    of.lacking = [key("velocity")]
    (seen,) = found(of)["velocity"].errors
    assert seen.note == "the candidate does not show it in this pass"


def test_a_wrong_schedule_does_not_excuse_an_image_s_latent() -> None:
    wrong = {key("latent", phase="image"): WRONG, key("input.sigma", step=1): WRONG}
    assert found(local(wrong)).keys() == {"image latent", "input.schedule"}
