import pytest

from waypoint_parity.harness.families.waypoint.rings.comparison import MOST_FAULTS, RingComparison
from waypoint_parity.harness.families.waypoint.rings.side import EMPTY, RingGeometry, Sign
from waypoint_parity.harness.run.keys import Key

LAYERS = [
    RingGeometry(name=f"kv_cache.layers.{layer}", kind="global", frames=4, dilation=2, tokens=4)
    if layer in (0, 4)
    else RingGeometry(name=f"kv_cache.layers.{layer}", kind="local", frames=2, dilation=1, tokens=4)
    for layer in range(5)
]


def sign(frame: int, site: str, *, digest: str | None = None, marks: str = "", phase: str = "cache") -> Sign:
    return Sign(Key(frame, phase, 0, site), "float32", digest, marks.split() or None)


def keys(frame: int, digest: str, layer: int = 4) -> Sign:
    return sign(frame, f"transformer.blocks.{layer}.attn.k_rope", digest=digest)


def kv(frame: int, marks: str, layer: int = 4, phase: str = "cache") -> Sign:
    return sign(frame, f"kv_cache.layers.{layer}.kv", marks=marks, phase=phase)


def mask(part: str, frame: int, marks: str, layer: int = 4) -> Sign:
    return sign(
        frame, f"kv_cache.layers.{layer}.{part}", marks=marks, phase="denoise" if part == "visible" else "cache"
    )


def messages(candidate: list[Sign], reference: list[Sign], geometries: list[RingGeometry] | None = LAYERS) -> list[str]:
    comparison = RingComparison(geometries)
    for order, seen in enumerate(reference):
        comparison.reference(order, seen)
    for seen in candidate:
        comparison.candidate(seen)
    return [fault.message for fault in comparison.faults]


# Frames 0 and 8 lie in the two slots; the candidate's keys are its own, a little off.
REFERENCE = [keys(8, "r8"), kv(8, "r0 r8 r8")]
CANDIDATE = [keys(8, "c8"), kv(8, "c0 c8 c8")]


def test_rings_that_hold_and_show_the_same_frames_have_no_fault() -> None:
    masks = [mask("written", 8, "1 1 1"), mask("visible", 9, "1 0 1")]
    assert messages([*CANDIDATE, *masks], [*REFERENCE, *masks]) == []


@pytest.mark.parametrize(
    ("shown", "right", "message"),
    [
        ("1 1 1", "1 0 1", "slot 1 holds frame 8, expected hidden"),
        ("1 0 1", "1 1 1", "slot 1 is hidden, expected visible"),
        ("1 mixed 1", "1 0 1", "slot 1 is partly visible, expected hidden"),
        ("1 1 0", "1 1 1", "the tail is hidden, expected visible"),
    ],
)
def test_a_slot_that_should_not_be_seen_is_named_with_what_it_holds(shown: str, right: str, message: str) -> None:
    found = messages([*CANDIDATE, mask("visible", 9, shown)], [*REFERENCE, mask("visible", 9, right)])
    assert found == [f"global layer 4, frame 9: {message}"]


def test_a_visible_slot_of_which_nothing_is_known_is_said_to_be_visible() -> None:
    found = messages([mask("visible", 9, "1 1 1")], [mask("visible", 9, "1 0 1")], geometries=None)
    assert found == ["layer 4, frame 9: slot 1 is visible, expected hidden"]


def test_a_slot_is_written_or_not() -> None:
    found = messages([mask("written", 8, "1 0 1", layer=1)], [mask("written", 8, "1 1 1", layer=1)])
    assert found == ["local layer 1, frame 8: slot 1 is unwritten, expected written"]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (f"c8 {EMPTY} c8", ["slot 0 holds frame 8, expected frame 0", "slot 1 holds nothing, expected frame 8"]),
        ("c0 x c8", ["slot 1 holds unknown content, expected frame 8"]),
        ("c0 c8 c0", ["the tail holds frame 0, expected frame 8"]),
    ],
)
def test_a_slot_that_holds_another_frame_is_named_with_both(marks: str, message: str) -> None:
    before = [keys(0, "c0"), kv(0, f"c0 {EMPTY} c0")], [keys(0, "r0"), kv(0, f"r0 {EMPTY} r0")]
    candidate, reference = [*before[0], keys(8, "c8"), kv(8, marks)], [*before[1], *REFERENCE]
    assert messages(candidate, reference) == [f"global layer 4, frame 8: {text}" for text in message]


def test_what_the_reference_itself_does_not_know_is_not_judged() -> None:
    assert messages([keys(8, "c8"), kv(8, "c8 c8 c8")], [keys(8, "r8"), kv(8, "x r8 r8")]) == []


def test_the_image_is_not_frame_0() -> None:
    found = messages([kv(0, f"{EMPTY} i i", phase="image")], [kv(0, f"i {EMPTY} i", phase="image")])
    assert found[0] == "global layer 4, the image: slot 0 holds nothing, expected the image"


def test_the_first_fault_in_the_references_order_comes_first_and_their_number_is_limited() -> None:
    comparison = RingComparison(None)
    layers = range(MOST_FAULTS + 5)
    for order, layer in enumerate(layers):
        comparison.reference(order, mask("visible", 9, "0 1", layer))
    for layer in reversed(layers):
        comparison.candidate(mask("visible", 9, "1 1", layer))
    assert [fault.cache for fault in comparison.faults] == [f"kv_cache.layers.{layer}" for layer in range(MOST_FAULTS)]


@pytest.mark.parametrize("first", ["reference", "candidate"])
def test_a_fault_knows_its_place_whichever_side_came_first(first: str) -> None:
    comparison = RingComparison(LAYERS)
    sides = {
        "reference": lambda: comparison.reference(0, mask("visible", 9, "1 0 1")),
        "candidate": lambda: comparison.candidate(mask("visible", 9, "1 1 1")),
    }
    for name in sorted(sides, reverse=first == "reference"):
        sides[name]()
    (fault,) = comparison.faults
    assert (fault.cache, fault.slot) == ("kv_cache.layers.4", 1)
    assert (fault.unit, fault.phase, fault.step) == (9, "denoise", 0)
