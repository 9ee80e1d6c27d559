"""What a part's local errors say by where, when and how large they are."""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from tests.harness.explain.blame.candidates import CHECKPOINT, GEOMETRY, geometry
from tests.harness.explain.blame.words import EXTENT, MODEL, ONSET
from waypoint_parity.harness.compare.error import Error, no_distance
from waypoint_parity.harness.explain.blame.result import Signature
from waypoint_parity.harness.explain.blame.signature import signature
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario

# Two steps; layers 0 and 2 global with every second frame in 4 / 2 slots, layer 1 local with 2 slots.
IDLE = make_scenario(GEOMETRY, name="idle", units=6, seed=0, controls="idle")
WITH_IMAGE = IDLE.with_tensors(image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))
TURNED = Error(identical=False, rel_l2=1.4, norm_ratio=1.01)
FRAMES = range(IDLE.units)
STEPS = range(2)
PASSES: list[tuple[str, int]] = [("denoise", 0), ("denoise", 1), ("cache", 0)]


def told(*keys: Key, scenario: Scenario = IDLE, error: Error = TURNED) -> Signature:
    return signature(dict.fromkeys(keys, error), CHECKPOINT, scenario)


def words(*keys: Key, scenario: Scenario = IDLE) -> set[str]:
    return set(told(*keys, scenario=scenario).onset)


def every(site: str, passes: Iterable[tuple[str, int]] = PASSES) -> list[Key]:
    return [Key(frame, phase, step, site) for frame in FRAMES for phase, step in passes]


def of_blocks(site: str, *blocks: int) -> str:
    return told(*(Key(0, "denoise", 0, site.format(block)) for block in blocks)).layers


def moving(frame: int, *, scroll: int) -> Scenario:
    """Nothing moves before the mouse does in `frame`, and the wheel in frame `scroll`."""
    scenario = make_scenario(GEOMETRY, name="moving", units=6, seed=0, controls="idle")
    scenario["mouse"][frame:, 1] = 0.5
    scenario["scroll"][scroll] = -1.0
    return scenario


def test_no_errors_say_nothing() -> None:
    assert told() == Signature(onset=[], layers="none", norm="unknown", course="unknown")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (Key(0, "prompt", 0, "input.prompt_emb"), {"prompt", "first pass"}),
        (Key(0, "denoise", 0, "denoise_step_emb"), {"frame 0", "clock 0", "first pass"}),
        (Key(0, "denoise", 1, "denoise_step_emb"), {"frame 0", "clock 0"}),
        (Key(0, "cache", 0, "denoise_step_emb"), {"frame 0", "clock 0", "cache pass"}),
        # The first pass that shows a ring's content at all.
        (Key(0, "cache", 0, "kv_cache.layers.0.kv"), {"frame 0", "clock 0", "cache pass", "first pass"}),
        (Key(0, "decode", 0, "frame"), {"frame 0", "clock 0", "decode", "first pass"}),
        (Key(1, "denoise", 0, "denoise_step_emb"), {"frame 1", "clock 1", "first skipped frame"}),
        (Key(2, "denoise", 0, "denoise_step_emb"), {"local ring full"}),
        (Key(4, "denoise", 0, "denoise_step_emb"), {"dilated ring full"}),
        (Key(5, "denoise", 0, "denoise_step_emb"), set()),
    ],
)
def test_the_onset_is_all_that_is_true_of_the_first_error(first: Key, expected: set[str]) -> None:
    assert words(first, Key(5, "cache", 0, first.site)) & ONSET == expected


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (Key(0, "image", 0, "denoise_step_emb"), {"image", "clock 0", "first pass"}),
        (Key(0, "denoise", 0, "denoise_step_emb"), {"frame 0", "clock 1", "first skipped frame"}),
        (Key(1, "denoise", 0, "denoise_step_emb"), {"frame 1", "local ring full"}),
        # An image is not denoised: this is the first velocity.
        (Key(0, "denoise", 0, "velocity"), {"frame 0", "clock 1", "first skipped frame", "first pass"}),
        (Key(0, "denoise", 0, "latent"), {"frame 0", "clock 1", "first skipped frame", "first pass"}),
        (Key(0, "image", 0, "latent"), {"image", "clock 0", "first pass"}),
    ],
)
def test_a_seed_image_is_clock_0(first: Key, expected: set[str]) -> None:
    assert words(first, Key(5, "cache", 0, first.site), scenario=WITH_IMAGE) & ONSET == expected


def test_no_frame_is_skipped_without_dilation() -> None:
    checkpoint = replace(CHECKPOINT, geometry=geometry(global_pinned_dilation=1))
    found = signature({Key(1, "denoise", 0, "latent"): TURNED}, checkpoint, IDLE)
    assert "clock 1" in found.onset
    assert "first skipped frame" not in found.onset


def test_the_first_control_and_the_first_scroll_are_told_apart() -> None:
    scenario = moving(1, scroll=3)
    first = [words(Key(frame, "denoise", 0, "ctrl_emb"), scenario=scenario) for frame in FRAMES]
    assert [frame for frame in FRAMES if "first control" in first[frame]] == [1]
    assert [frame for frame in FRAMES if "first scroll" in first[frame]] == [3]


@pytest.mark.parametrize("scenario", [IDLE, moving(0, scroll=0)], ids=["never", "in frame 0"])
def test_controls_that_do_not_begin_within_the_session_say_nothing(scenario: Scenario) -> None:
    found = {word for frame in FRAMES for word in words(Key(frame, "denoise", 0, "ctrl_emb"), scenario=scenario)}
    assert not found & {"first control", "first scroll"}


def test_a_step_that_the_schedule_does_not_have_is_named() -> None:
    only_one_side = no_distance("only the candidate has this pass")
    beyond = told(Key(0, "denoise", 2, "input.sigma"), error=only_one_side)
    assert {"step beyond the schedule", "no distance"} <= set(beyond.onset)
    assert "step beyond the schedule" not in words(Key(0, "denoise", 1, "input.sigma"))


def test_a_scenario_s_own_schedule_counts() -> None:
    longer = IDLE.with_tensors(sigmas=torch.tensor([1.0, 0.7, 0.3, 0.0]))
    assert "step beyond the schedule" not in words(Key(0, "denoise", 2, "input.sigma"), scenario=longer)


PER_STEP: list[tuple[str, int]] = [("denoise", 0), ("denoise", 1)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (every("denoise_step_emb"), {"every pass"}),
        (every("denoise_step_emb")[:-1], set()),
        (every("denoise_step_emb", PER_STEP), {"right at sigma 0"}),
        (
            every("denoise_step_emb", [("denoise", 1)]),
            {"from the second step on", "last step only", "right at sigma 0"},
        ),
        (every("denoise_step_emb", [("denoise", 1), ("cache", 0)]), {"from the second step on"}),
        (every("denoise_step_emb", [("cache", 0)]), set()),
        # These sites are not shown in a cache pass, so nothing can be said of it.
        (every("velocity", PER_STEP), {"every pass"}),
        (every("latent", [("denoise", 1)]), {"from the second step on", "last step only"}),
        (every("input.noise", [("denoise", 0)]), {"every pass"}),
        (every("input.button", [("denoise", 0)]), {"every pass", "buttons only"}),
        (every("kv_cache.layers.1.kv", [("cache", 0)]), {"every pass"}),
        (every("frame", [("decode", 0)]), {"every pass"}),
    ],
)
def test_the_extent_is_all_that_is_true_of_the_passes_with_errors(keys: list[Key], expected: set[str]) -> None:
    assert words(*keys) & EXTENT == expected


def test_an_image_alone_does_not_tell_what_is_right_at_sigma_0() -> None:
    assert "right at sigma 0" not in words(Key(1, "denoise", 0, "input.button"), scenario=WITH_IMAGE)


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        (["transformer.blocks.0.attn.k_proj", "transformer.blocks.2.attn.v_proj"], {"keys and values"}),
        (["transformer.blocks.0.attn.v_proj"], {"values only"}),
        (["transformer.blocks.0.attn.q_proj", "transformer.blocks.0.attn.v_proj"], set()),
        (["transformer.blocks.0.attn.k_rope", "transformer.blocks.1.attn.k_rope"], {"keys only"}),
        (["transformer.blocks.0.attn.q_rope"], {"queries only"}),
        (["kv_cache.layers.0.visible"], {"visibility only"}),
        (["kv_cache.layers.0.visible", "kv_cache.layers.0.written"], set()),
        (["input.scroll"], {"scroll only"}),
        (["decoder.conv_in"], {"first convolution only"}),
        (["decoder.conv_in", "decoder.blocks.0"], set()),
        (["decoder.blocks.0", "decoder.residuals.3"], {"first convolution right"}),
        (["decoder.conv_out"], {"first convolution right", "last convolution only"}),
    ],
)
def test_the_extent_names_the_sites_where_they_are_not_all(sites: list[str], expected: set[str]) -> None:
    passes = {"every pass", "right at sigma 0"}
    assert words(*(Key(3, "denoise", 0, site) for site in sites)) & EXTENT - passes == expected


@pytest.mark.parametrize(
    ("site", "blocks", "expected"),
    [
        ("transformer.blocks.{}.mlp", [0, 1, 2], "every"),
        ("transformer.blocks.{}.mlp", [1, 2], "all but the first"),
        ("transformer.blocks.{}.mlp", [2], "all but the first two"),
        ("transformer.blocks.{}.mlp", [0], "first only"),
        ("transformer.blocks.{}.mlp", [0, 1], "blocks 0, 1"),
        # An MLP has no ring: what blocks 0 and 2 have in common is something else.
        ("transformer.blocks.{}.mlp", [0, 2], "blocks 0, 2"),
        ("transformer.blocks.{}.mlp", [1], "block 1"),
        ("transformer.blocks.{}.attn", [0, 2], "global"),
        ("transformer.blocks.{}.attn.k_rope", [1], "local"),
        ("kv_cache.layers.{}.written", [0, 2], "global"),
        # Prompt and control are in some blocks only: in 0, and in 0 and 2.
        ("transformer.blocks.{}.prompt_cross_attn", [0], "every"),
        ("transformer.blocks.{}.ctrl_mlpfusion", [0, 2], "every"),
        ("transformer.blocks.{}.ctrl_mlpfusion", [2], "all but the first"),
        ("velocity", [0], "none"),
        # Stages of the autoencoder are no blocks.
        ("decoder.blocks.{}", [0, 1], "none"),
    ],
)
def test_layers_are_those_of_the_blocks_that_have_the_part(site: str, blocks: list[int], expected: str) -> None:
    assert of_blocks(site, *blocks) == expected


@pytest.mark.parametrize(
    ("rel_l2", "norm_ratio", "expected"),
    [
        (1.4, 1.0, "kept"),
        # Another draw of a few elements has another norm, by chance.
        (1.41, 1.15, "kept"),
        (0.1, math.hypot(1, 0.1), "kept"),
        # As much again, at right angles.
        (1.0, math.sqrt(2), "changed"),
        # Scaled, by much and by little, up and down.
        (4.49, 5.49, "changed"),
        (254.0, 255.0, "changed"),
        (0.01, 1.01, "changed"),
        (0.82, 0.18, "changed"),
        (1.0, 0.0, "changed"),
        (math.inf, None, "unknown"),
    ],
)
def test_the_norm_is_kept_where_it_changes_by_little_of_the_distance(
    rel_l2: float, norm_ratio: float | None, expected: str
) -> None:
    error = Error(identical=False, rel_l2=rel_l2, norm_ratio=norm_ratio)
    assert told(*every("velocity", PER_STEP), error=error).norm == expected


def test_a_mask_has_no_norm() -> None:
    assert told(*every("kv_cache.layers.0.written", [("cache", 0)])).norm == "unknown"


@pytest.mark.parametrize(
    ("growth", "expected"), [(1.0, "steady"), (1.05, "steady"), (1.3, "grows"), (0.7, "fades"), (0.0, "unknown")]
)
def test_the_course_is_that_of_the_same_observation_from_frame_to_frame(growth: float, expected: str) -> None:
    # The steps are far apart; what counts is each by itself.
    faults = {
        Key(frame, "denoise", step, "latent"): Error(False, 1e-3 * 100**step * growth**frame)
        for frame in FRAMES
        for step in STEPS
    }
    assert signature(faults, CHECKPOINT, IDLE).course == expected


def test_one_frame_has_no_course() -> None:
    assert told(*(Key(3, "denoise", step, "latent") for step in STEPS)).course == "unknown"


@pytest.mark.parametrize(("rel_l2", "expected"), [(3e-3, True), (1.3e-2, True), (0.1, False), (math.inf, False)])
def test_errors_as_small_as_a_rounding_are_named(rel_l2: float, expected: bool) -> None:
    found = told(*every("denoise_step_emb"), error=Error(identical=False, rel_l2=rel_l2))
    assert ("rounding-sized" in found.onset) is expected


def test_every_word_of_a_list_is_one_of_those_defined() -> None:
    assert words(*every("transformer.blocks.0.attn.k_rope"), scenario=WITH_IMAGE) <= ONSET | EXTENT | MODEL
