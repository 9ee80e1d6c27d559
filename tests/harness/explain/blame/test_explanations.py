"""Which kinds of fault are listed beside a cause, and in which order."""

from typing import NamedTuple, get_args

import pytest

from tests.harness.explain.blame.words import CONTROLS, EXTENT, LAYERS, MODEL, ONSET
from tests.harness.observations import FAMILY
from waypoint_parity.fixtures.faults import SUITE
from waypoint_parity.harness.explain.blame.explanations import MOST, explain, kinds_of, rank_of
from waypoint_parity.harness.explain.blame.result import Signature
from waypoint_parity.harness.explain.blame.signature import Course, Norm
from waypoint_parity.harness.run.family import FaultKind

KINDS = kinds_of(FAMILY)


def seen(
    *onset: str, layers: str = "none", norm: str = "unknown", course: str = "unknown", controls: str | None = None
) -> Signature:
    model = [] if MODEL.intersection(onset) else ["Waypoint 1"]
    return Signature(
        onset=[*onset, *model], layers=layers, norm=norm, course=course, controls=[controls] if controls else []
    )


class Case(NamedTuple):
    fault: str
    part: str
    signature: Signature
    # Words of the kind that is to be among the first two.
    words: str


START = ("frame 0", "clock 0", "first pass")
ALWAYS = (*START, "every pass")
SECOND = ("frame 1", "clock 1", "first skipped frame")
DECODED = (*ALWAYS, "decode")
LATER = ("frame 0", "clock 0", "from the second step on", "right at sigma 0")
# As the seeded faults of these kinds show.
CASES = (
    Case("sigma-three-steps", "input.schedule", seen(*LATER, norm="changed", course="steady"), "another release"),
    Case("sigma-trailing", "input.schedule", seen(*LATER, "step beyond the schedule", "no distance"), "final 0"),
    Case("sigma-fp32", "noise conditioner", seen(*LATER, norm="kept", course="steady"), "not rounded"),
    Case("noise-global-rng", "input.noise", seen(*SECOND, norm="kept"), "one generator"),
    Case("noise-sliced", "input.noise", seen(*ALWAYS, norm="kept", course="steady"), "sliced"),
    Case("cond-no-thousand", "noise conditioner", seen(*START, "right at sigma 0", norm="kept"), "by 1000"),
    Case("cond-cos-sin", "noise conditioner", seen(*ALWAYS, norm="kept", course="steady"), "sines and cosines"),
    Case("cond-bf16", "noise conditioner", seen(*ALWAYS, "rounding-sized", norm="kept"), "in bf16"),
    Case("cond-slots", "conditioning heads", seen(*ALWAYS, layers="every", norm="kept"), "slots exchanged"),
    Case("outnorm-no-silu", "output norm", seen(*ALWAYS, norm="changed", course="steady"), "without silu"),
    Case("ctrl-order", "control embedding", seen(*SECOND, "first control", norm="changed"), "another order"),
    Case("ctrl-no-scroll", "control embedding", seen("first scroll", norm="changed"), "scroll dropped"),
    Case("ctrl-stale", "input.controls", seen(*SECOND, "first control", norm="changed"), "frame before"),
    Case(
        "prompt-masked",
        "prompt attention",
        seen(*ALWAYS, layers="every", norm="changed", course="steady", controls="only with padding"),
        "masked out",
    ),
    Case(
        "prompt-unzeroed",
        "input.prompt",
        seen("prompt", "first pass", "every pass", norm="changed", controls="only with padding"),
        "not zeroed",
    ),
    Case(
        "prompt-no-qknorm",
        "prompt attention",
        seen(*ALWAYS, layers="every", norm="kept", course="steady", controls="unchanged by padding"),
        "not normed",
    ),
    Case("rope-missing", "rotation", seen(*ALWAYS, layers="every", norm="kept", course="steady"), "not applied"),
    Case("rope-xy", "rotation", seen(*ALWAYS, layers="every", norm="kept", course="steady"), "x and y"),
    Case("rope-time-64", "rotation", seen(*SECOND, layers="every", norm="kept"), "temporal frequencies"),
    Case("qk-no-norm", "rotation", seen(*ALWAYS, layers="every", norm="changed", course="steady"), "not normed"),
    Case("attn-causal-in-frame", "attention", seen(*ALWAYS, layers="every", norm="changed", course="fades"), "causal"),
    Case("attn-gate-late", "attention", seen(*ALWAYS, layers="every", norm="kept", course="steady"), "gate applied"),
    Case("attn-kv-swapped", "projections", seen(*ALWAYS, "keys and values", layers="every", norm="kept"), "exchanged"),
    Case(
        "value-residual-chain",
        "attention",
        seen(*ALWAYS, layers="all but the first two", norm="changed", course="fades"),
        "value residual",
    ),
    Case("cache-none", "cache", seen(*SECOND, "visibility only", layers="blocks 0, 1"), "no history"),
    Case("cache-pass-skipped", "cache", seen(*START, "cache pass", layers="every", norm="changed"), "never writes"),
    Case("cache-noisy", "cache", seen(*LATER, "visibility only", layers="blocks 0, 1"), "denoise passes write"),
    Case("cache-flat-window", "cache", seen(*SECOND, "cache pass", layers="global", norm="kept"), "sliding window"),
    Case("cache-stale-slot", "cache", seen("local ring full", "visibility only", layers="local"), "about to be"),
    Case("cache-slot-floor", "cache", seen(*SECOND, layers="global", norm="kept"), "rounded down"),
    Case("cache-zeros-seen", "cache", seen(*START, "visibility only", layers="blocks 0, 1"), "as zeros"),
    Case("cache-rope-by-slot", "rotation", seen("local ring full", "keys only", layers="every", norm="kept"), "slot"),
    Case("euler-x0", "sampler", seen(*ALWAYS, norm="changed", course="steady"), "clean latent"),
    Case("cfg-doubled", "velocity", seen(*ALWAYS, norm="changed", course="steady"), "guidance"),
    Case("latent-renorm", "sampler", seen(*SECOND, "last step only", norm="changed"), "statistics"),
    Case("vae-scale", "decoder", seen(*DECODED, "first convolution only", norm="changed"), "latent scaled"),
    Case("vae-clamp", "picture", seen(*DECODED, norm="changed", course="steady"), "without being shifted"),
    Case(
        "vae-antialias",
        "decoder",
        seen(*DECODED, "first convolution right", "last convolution only", norm="changed"),
        "antialiasing",
    ),
    Case(
        "vae-order",
        "decoder",
        seen(*DECODED, "first convolution right", "last convolution only", norm="kept"),
        "before the last convolution",
    ),
    Case("frame-uint8-overflow", "picture", seen(*DECODED, norm="kept", course="steady"), "255 twice"),
    Case("unpatchify-order", "velocity", seen(*ALWAYS, norm="kept", course="steady"), "another order"),
    Case("weights-fused-missing", "projections", seen(*ALWAYS, "values only", layers="block 1"), "initial value"),
    Case("weights-untied", "conditioning heads", seen(*ALWAYS, layers="all but the first"), "first block only"),
)
SECOND_MODEL = ("Waypoint 1.5",)
TWO_CLOCKS = (*SECOND_MODEL, "two clocks")
TABLES = (*SECOND_MODEL, *START, "right at sigma 0")
CASES += (
    Case("w15-v-first", "attention", seen(*SECOND_MODEL, *ALWAYS, layers="all but the first two"), "value residual"),
    Case("w15-one-clock", "rotation", seen(*TWO_CLOCKS, *SECOND, norm="kept"), "clock of the rings"),
    Case("w15-ring-clock", "cache", seen(*TWO_CLOCKS, *SECOND, "visibility only"), "clock of the rotation"),
    Case("w15-hidden-slot", "cache", seen(*SECOND_MODEL, "local ring full", "visibility only"), "about to be"),
    Case("w15-whole-ring", "cache", seen(*SECOND_MODEL, *START, "visibility only"), "as zeros"),
    Case("w15-unprimed", "decoder", seen(*SECOND_MODEL, *DECODED, course="fades"), "first latent"),
    Case("w15-seed-undecoded", "decoder", seen(*SECOND_MODEL, *DECODED, "no distance"), "seed latent"),
    Case(
        "w15-exact-conditioner", "noise conditioner", seen(*SECOND_MODEL, *START, "right at sigma 0"), "another table"
    ),
    Case("w15-unpatchify-order", "velocity", seen(*SECOND_MODEL, *ALWAYS, norm="kept"), "another order"),
    Case("w15-biases", "conditioning heads", seen(*SECOND_MODEL, *ALWAYS, layers="every"), "another bias"),
)
# Others that ports have, and the same faults where an implementation shows less.
OTHERS = (
    Case("cache shown by the attention only", "attention", seen(*SECOND, layers="every"), "no history"),
    Case("stale slot, attention only", "attention", seen("local ring full", layers="local"), "about to be"),
    Case("noisy cache, attention only", "attention", seen(*LATER, layers="every"), "denoise passes write"),
    Case("grouped heads", "attention", seen(*ALWAYS, layers="every", norm="kept", course="steady"), "other key heads"),
    Case("no experiment with padding", "prompt attention", seen(*ALWAYS, layers="every"), "masked out"),
    Case("rope tables", "rotation", seen("rounding-sized", layers="every"), "tables in bf16"),
    Case("silu of the heads", "conditioning heads", seen(*ALWAYS, layers="every", norm="changed"), "silu missing"),
    Case("epsilon", "mlp", seen(*ALWAYS, "rounding-sized", layers="block 1"), "epsilon"),
    Case("latent layout", "image latent", seen("image", norm="kept"), "another layout"),
    Case("NaN", "mlp", seen("no distance", layers="block 1"), "NaN"),
)


@pytest.mark.parametrize("case", [*CASES, *OTHERS], ids=lambda case: case.fault)
def test_a_plausible_signature_lists_the_kind_among_the_first_two(case: Case) -> None:
    kinds = [explanation.kind for explanation in explain(case.part, case.signature, FAMILY)]
    assert any(case.words in kind for kind in kinds[:2]), kinds


def test_every_seeded_fault_has_its_case_here() -> None:
    assert {case.fault for case in CASES} == {fault.name for fault in SUITE.faults}
    parts = {fault.name: fault.part for fault in SUITE.faults}
    assert [case.fault for case in CASES if case.part != parts[case.fault]] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.parts[0]}: {kind.kind}")
def test_every_kind_can_be_reached(kind: FaultKind) -> None:
    signature = seen(
        *kind.onset[:1],
        *kind.extent[:1],
        layers=next(iter(kind.layers), "none"),
        norm=kind.norm or "unknown",
        course=kind.course or "unknown",
        controls=next(iter(kind.controls), None),
    )
    for part in kind.parts:
        assert kind.kind in [explanation.kind for explanation in explain(part, signature, FAMILY)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.parts[0]}: {kind.kind}")
def test_a_kind_is_of_known_parts_and_says_what_to_check(kind: FaultKind) -> None:
    assert set(kind.parts) <= {part.name for part in FAMILY.parts}
    assert kind.parts
    assert kind.kind
    assert kind.check


def test_conditions_are_words_that_a_signature_can_have() -> None:
    words = {"onset": ONSET | MODEL, "extent": EXTENT | MODEL, "layers": LAYERS, "controls": CONTROLS}
    used = {name: {word for kind in KINDS for word in getattr(kind, name)} for name in words}
    assert {name: used[name] - words[name] for name in words} == {name: set() for name in words}
    assert {kind.norm for kind in KINDS} <= {None, *get_args(Norm)} - {"unknown"}
    assert {kind.course for kind in KINDS} <= {None, *get_args(Course)} - {"unknown"}


def test_no_kind_is_listed_twice() -> None:
    named = [(part, kind.kind) for kind in KINDS for part in kind.parts]
    assert len(named) == len(set(named))


def test_more_conditions_fulfilled_come_first() -> None:
    everywhere = explain("residual", seen(*ALWAYS, layers="every", norm="changed"), FAMILY)
    assert ["where it is read" in found.kind for found in everywhere] == [True, False]
    (of_one,) = explain("residual", seen(*ALWAYS, layers="block 1"), FAMILY)
    assert "where it is read" not in of_one.kind


def test_a_contradicted_kind_is_not_listed() -> None:
    turned = seen(*ALWAYS, layers="every", norm="kept")
    assert all(found.kind != "queries and keys not normed" for found in explain("rotation", turned, FAMILY))
    outside = seen(*ALWAYS, layers="every", controls="unchanged by padding")
    assert all("masked out" not in found.kind for found in explain("prompt attention", outside, FAMILY))


def test_what_is_unknown_contradicts_nothing_and_counts_for_nothing() -> None:
    kind = FaultKind(
        ("mlp",), "a", "b", onset=("clock 0",), norm="kept", course="fades", controls=("only with padding",)
    )
    assert rank_of(kind, "mlp", seen("clock 0")) == 1
    assert rank_of(kind, "mlp", seen("clock 0", norm="kept", controls="only with padding")) == 3
    assert rank_of(kind, "mlp", seen("clock 0", norm="kept", course="grows")) is None
    assert rank_of(kind, "mlp", seen("clock 1")) is None
    assert rank_of(kind, "residual", seen("clock 0")) is None


def test_there_are_never_more_than_a_few() -> None:
    listed = [explain(case.part, case.signature, FAMILY) for case in (*CASES, *OTHERS)]
    assert max(map(len, listed)) == MOST


def test_what_no_kind_looks_like_is_left_unexplained() -> None:
    assert explain("input.noise", seen("frame 3"), FAMILY) == []
