from collections.abc import Iterable

import pytest
import torch

from tests.harness.explain.blame.candidates import TABLE, apart, shown
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.local import local_errors
from waypoint_parity.harness.explain.blame.noise import MARGIN, PICTURE_BOUND, Noise, rounded_otherwise
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import kind_of
from waypoint_parity.reference.eager.adapter import EagerAdapter

ROUNDOFF = 2.0**-24


def bound(noise: Noise, site: str, roundoff: float = ROUNDOFF) -> float:
    return noise.bound(site, TABLE.kind(site), roundoff)


def computed(sites: Iterable[str]) -> set[str]:
    return {kind_of(site) for site in sites if not is_input(site) and not TABLE.is_mask(site)}


@pytest.mark.parametrize(
    ("site", "kind"),
    [
        ("transformer.blocks.12.attn.q_rope", "transformer.blocks.*.attn.q_rope"),
        ("kv_cache.layers.0.kv", "kv_cache.layers.*.kv"),
        ("velocity", "velocity"),
    ],
)
def test_the_same_site_of_all_blocks_is_of_one_kind(site: str, kind: str) -> None:
    assert kind_of(site) == kind


def test_a_bound_is_a_margin_over_the_level_of_the_kind_of_site_or_over_a_single_rounding() -> None:
    noise = Noise(levels={"transformer.blocks.*.mlp": 1e-5, "velocity": 1e-12}, pictures=None)
    assert bound(noise, "transformer.blocks.3.mlp") == MARGIN * 1e-5
    assert bound(noise, "velocity") == MARGIN * ROUNDOFF
    assert bound(noise, "out_norm") == MARGIN * ROUNDOFF


@pytest.mark.parametrize(
    "site", ["input.noise", "input.sigma", "kv_cache.layers.2.visible", "kv_cache.layers.2.written"]
)
def test_inputs_and_masks_have_no_noise(site: str) -> None:
    assert bound(Noise(levels={kind_of(site): 1.0}, pictures=None), site) == 0.0


def test_a_picture_may_have_a_few_pixels_on_the_other_side_of_an_edge_whatever_was_measured() -> None:
    assert bound(Noise(levels={"frame": 0.5}, pictures=None), "frame", 0.0) == PICTURE_BOUND


def test_every_kind_of_site_that_is_computed_has_a_level_of_a_few_roundings(noise: Noise) -> None:
    levels = noise.levels
    without_image = {row.name for row in TABLE.rows if not row.name.startswith("encoder")}
    assert computed(levels) == computed(without_image)
    loudest = {site: level for site, level in levels.items() if site != "frame"}
    assert 1e-8 < max(loudest.values()) < 2e-6
    assert all(level > 0 for site, level in loudest.items() if not site.startswith(("input.", "kv_cache.")))


def test_the_pictures_of_two_roundings_hardly_differ(noise: Noise) -> None:
    assert noise.pictures is not None
    assert noise.pictures.mean_abs < 0.05
    assert noise.pictures.ssim < 1e-3


def test_a_right_candidate_stays_well_below_the_bounds(
    noise: Noise, eager: EagerAdapter, tiny: Checkpoint, fp32_on_cpu: Numerics, tiny_scenario: Scenario
) -> None:
    # Another session than the one that the noise was measured on, and other roundings.
    other = rounded_otherwise("eager", tiny, fp32_on_cpu)
    local = local_errors(eager, other, tiny, tiny_scenario)
    for at, error in local.errors.items():
        assert error.rel_l2 <= 0.75 * bound(noise, at.site, local.roundoff[at]), str(at)


def test_the_reference_rounded_otherwise_differs_by_rounding_in_all_that_it_computes(
    eager: EagerAdapter, tiny: Checkpoint, fp32_on_cpu: Numerics, one_frame: Scenario
) -> None:
    rounded = rounded_otherwise("eager", tiny, fp32_on_cpu)
    sessions = [shown(adapter, one_frame, tiny) for adapter in (rounded, eager)]
    found = apart(*sessions)
    assert not any(is_input(at.site) or TABLE.is_mask(at.site) for at in found)
    assert {at.site for at in found} >= {"denoise_step_emb", "velocity", "latent", "decoder.conv_out"}
    assert max(error for at, error in found.items() if at.site != "frame") < 1e-5


def test_noise_grows_with_the_roundoff_of_the_dtype(tiny: Checkpoint, one_frame: Scenario) -> None:
    bf16 = Numerics(torch.bfloat16, torch.device("cpu"))
    reference, rounded = EagerAdapter(tiny, bf16), rounded_otherwise("eager", tiny, bf16)
    local = local_errors(reference, rounded, tiny, one_frame)
    errors = {at.site: error.rel_l2 for at, error in local.errors.items()}
    assert local.roundoff[Key(0, "denoise", 0, "velocity")] == 2.0**-8
    assert 1e-4 < errors["velocity"] < 2e-2
