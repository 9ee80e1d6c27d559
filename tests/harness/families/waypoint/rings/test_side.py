import pytest

from waypoint_parity.fixtures.tiny import transformer_config
from waypoint_parity.harness.families.waypoint.rings.side import (
    EMPTY,
    NOTHING,
    UNKNOWN,
    RingSide,
    Sign,
    ring_geometries,
    tells_of_a_ring,
)
from waypoint_parity.harness.run.keys import Key

KEYS, RING = "transformer.blocks.4.attn.k_rope", "kv_cache.layers.4.kv"


def rotated(frame: int, digest: str, phase: str = "cache", step: int = 0, dtype: str = "float32") -> Sign:
    return Sign(Key(frame, phase, step, KEYS), dtype, digest, None)


def ring(frame: int, *marks: str, phase: str = "cache") -> Sign:
    return Sign(Key(frame, phase, 0, RING), "float32", None, list(marks))


def held(side: RingSide, *signs: Sign) -> list[str] | None:
    """What the slots hold after the last of `signs`."""
    *before, last = signs
    for sign in before:
        side.observe(sign)
    seen = side.observe(last)
    assert seen is not None
    return seen.held


def test_a_slot_holds_the_frame_whose_keys_it_holds() -> None:
    side = RingSide()
    assert held(side, rotated(0, "a"), ring(0, "a", EMPTY, "a")) == ["frame 0", NOTHING, "frame 0"]
    assert held(side, rotated(1, "b"), ring(1, "a", "b", "b")) == ["frame 0", "frame 1", "frame 1"]


def test_keys_of_an_image_and_of_a_denoise_step_are_told_from_those_of_a_finished_frame() -> None:
    side = RingSide()
    assert held(side, rotated(0, "i", "image"), ring(0, "i", EMPTY, "i", phase="image"))[0] == "the image"  # type: ignore[index]
    signs = rotated(0, "s", "denoise", 3), rotated(0, "a"), ring(0, "i", "s", "a")
    assert held(side, *signs) == ["the image", "frame 0 as of denoise step 3", "frame 0"]


def test_a_slot_that_holds_no_frames_keys_has_unknown_content() -> None:
    assert held(RingSide(), rotated(0, "a"), ring(0, "x", EMPTY, "a")) == [UNKNOWN, NOTHING, "frame 0"]


@pytest.mark.parametrize("told", [[], [rotated(0, "b", dtype="bfloat16")]], ids=["not told", "of another dtype"])
def test_where_the_keys_are_not_told_the_tail_is_taken_to_hold_the_frame(told: list[Sign]) -> None:
    assert held(RingSide(), *told, ring(0, "a", "x", "a")) == ["frame 0", UNKNOWN, "frame 0"]


def test_what_lies_in_a_slot_is_remembered_for_as_long_as_it_lies_there_and_nothing_else_is() -> None:
    side = RingSide()
    for frame in range(50):
        side.observe(rotated(frame, f"d{frame}", "denoise"))
        side.observe(rotated(frame, f"c{frame}"))
        side.observe(ring(frame, "c0", f"c{frame}"))
    assert held(side, ring(49, "c0", "c3", "d3", "c49")) == ["frame 0", UNKNOWN, UNKNOWN, "frame 49"]


def test_a_taught_side_may_hold_its_teachers_keys() -> None:
    teacher = RingSide()
    teacher.observe(rotated(0, "A"))
    teacher.observe(ring(0, "A", EMPTY, "A"))
    signs = rotated(1, "b"), ring(1, "A", "b", "b")
    assert held(RingSide(teacher), *signs) == ["frame 0", "frame 1", "frame 1"]
    assert held(RingSide(), *signs) == [UNKNOWN, "frame 1", "frame 1"]


def test_masks_are_shown_with_what_the_slots_hold_by_then() -> None:
    side = RingSide()
    held(side, rotated(0, "a"), ring(0, "a", EMPTY, "a"))
    seen = side.observe(Sign(Key(1, "denoise", 0, "kv_cache.layers.4.visible"), "bool", None, ["1", "0", "1"]))
    assert seen is not None
    assert (seen.layer, seen.part, seen.marks, seen.held) == (
        4,
        "visible",
        ["1", "0", "1"],
        ["frame 0", NOTHING, "frame 0"],
    )


def test_other_sites_tell_nothing() -> None:
    assert tells_of_a_ring(KEYS)
    assert tells_of_a_ring(RING)
    for site in ("transformer.blocks.4.attn.q_rope", "latent", "decoder.blocks.4"):
        assert not tells_of_a_ring(site)
        assert RingSide().observe(Sign(Key(0, "cache", 0, site), "float32", "a", None)) is None


def test_a_geometry_has_a_ring_for_every_layer() -> None:
    rings = ring_geometries(transformer_config())
    assert [(ring.kind, ring.frames, ring.dilation, ring.slots, ring.tokens) for ring in rings] == [
        ("global", 4, 2, 2, 4), ("local", 2, 1, 2, 4), ("global", 4, 2, 2, 4)
    ]  # fmt: skip
