from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.harness import implementations, rollouts
from tests.harness.observations import JUDGEMENT
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.diff import diff
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.live import lockstep, rougher_units
from waypoint_parity.harness.judge.table import ALLOWED_MISSING
from waypoint_parity.harness.record.records import read_manifest, read_records
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Rung
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario

Compared = tuple[Comparison, Comparison]


@pytest.fixture(scope="module")
def compare(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Callable[..., Compared]:
    """The comparison of the reference with an implementation: in lockstep, and through the dumps written meanwhile."""

    def side(folder: Path, name: str) -> Side:
        adapter = load(name, tiny, fp32_on_cpu)
        return Side(name, adapter, DumpWriter(folder, describe_run(name, adapter, fp32_on_cpu, tiny, tiny_scenario)))

    def both(candidate: str, folder: Path, judgement: Judgement = JUDGEMENT) -> Compared:
        sides = side(folder / "reference", "eager"), side(folder / "candidate", candidate)
        live = lockstep(*sides, tiny, tiny_scenario, judgement)
        return live, diff(folder / "reference", folder / "candidate", judgement)

    return both


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the dumps of `ours` are."""
    return tmp_path_factory.mktemp("ours")


@pytest.fixture(scope="module")
def ours(compare: Callable[..., Compared], folder: Path) -> Compared:
    """The reference against our own candidate."""
    return compare("candidate", folder)


def named(implementation: type) -> str:
    return f"{implementation.__module__}:{implementation.__name__}"


def test_an_implementation_is_identical_to_itself(compare: Callable[..., Compared], tmp_path: Path) -> None:
    live, offline = compare("eager", tmp_path)
    assert live.verdict is offline.verdict is Verdict.IDENTICAL
    assert live.counts == offline.counts == {Verdict.IDENTICAL: live.expected}
    assert live.compared == live.expected == offline.compared
    assert [(live.evidence, offline.evidence)] == [("tensors", "sketches")]
    assert [picture.ssim for picture in live.pictures] == [1.0, 1.0]


def test_the_candidate_agrees_with_the_reference_by_either_way(ours: Compared) -> None:
    live, offline = ours
    assert live.verdict is offline.verdict is Verdict.WITHIN_NOISE
    assert live.counts == offline.counts
    assert live.compared == live.expected
    assert live.worst is not None
    assert offline.worst is not None
    assert offline.worst.distance == pytest.approx(live.worst.distance, rel=0.5)
    assert live.pictures == offline.pictures


def test_a_divergence_is_found_at_the_same_first_site_by_either_way(
    compare: Callable[..., Compared], tmp_path: Path
) -> None:
    live, offline = compare(named(implementations.Louder), tmp_path)
    assert live.verdict is offline.verdict is Verdict.DIVERGED
    assert live.first is not None
    assert offline.first is not None
    assert live.first.key == offline.first.key
    assert live.first.site == "transformer.blocks.1.mlp"
    assert live.first.rel_l2 == pytest.approx(1e-4, rel=1e-2)
    assert live.counts == offline.counts
    assert {rung.site for rung in live.sites if rung.failed} == {"transformer.blocks.1.mlp"}
    assert live.slots == offline.slots == []


def test_a_slot_that_holds_another_frame_is_found_at_the_same_first_site_by_either_way_and_named(
    compare: Callable[..., Compared], tmp_path: Path
) -> None:
    live, offline = compare(named(rollouts.OtherSlot), tmp_path)
    assert live.verdict is offline.verdict is Verdict.DIVERGED
    assert live.first is not None
    assert offline.first is not None
    assert str(live.first.key) == str(offline.first.key) == "u1/cache0/kv_cache.layers.1.kv"
    assert live.counts == offline.counts
    messages = [fault.message for fault in live.slots]
    assert messages[0] == "local layer 1, frame 1: slot 0 holds frame 1, expected frame 0"
    assert live.slots == offline.slots


def test_a_side_may_lack_an_optional_site_by_either_way(compare: Callable[..., Compared], tmp_path: Path) -> None:
    live, offline = compare(named(rollouts.Blind), tmp_path)
    assert live.verdict is offline.verdict is Verdict.IDENTICAL
    assert live.counts == offline.counts == {Verdict.IDENTICAL: live.expected}
    assert live.expected == offline.expected == live.compared


def test_the_error_of_every_units_last_latent_is_told_by_either_way(ours: Compared) -> None:
    live, offline = ours
    last = [rung for rung in live.sites if rung.site == "latent"][-1]
    assert [growth.unit for growth in live.growth] == [0, 1]
    assert max(growth.rel_l2 or 0.0 for growth in live.growth) == last.rel_l2
    assert {growth.tolerance for growth in live.growth} == {1e-5}
    assert live.horizon is offline.horizon is None
    # A sketch of 61 numbers is good to 9 %, one standard deviation.
    assert [growth.unit for growth in offline.growth] == [0, 1]
    for exact, estimated in zip(live.growth, offline.growth, strict=True):
        assert estimated.rel_l2 == pytest.approx(exact.rel_l2, rel=0.3)


def test_another_input_makes_the_runs_incomparable_by_either_way(
    compare: Callable[..., Compared], tmp_path: Path
) -> None:
    live, offline = compare(named(implementations.OtherNoise), tmp_path)
    assert live.verdict is offline.verdict is Verdict.INCOMPARABLE
    assert live.reason == "input.noise differs at unit 0, denoise step 0"
    assert offline.reason is not None
    assert offline.reason.startswith(live.reason)


def test_a_missing_site_fails_unless_it_may_be_missing_by_either_way(
    compare: Callable[..., Compared], tmp_path: Path
) -> None:
    live, offline = compare(named(implementations.Fewer), tmp_path)
    assert live.verdict is offline.verdict is Verdict.MISSING
    assert live.first is not None
    assert offline.first is not None
    assert live.first.key == offline.first.key
    allowed = Judgement(JUDGEMENT.bounds, allowed_missing=("decoder.*",))
    live, offline = compare(named(implementations.Fewer), tmp_path, allowed)
    assert live.verdict is offline.verdict is Verdict.IDENTICAL
    assert live.counts == offline.counts
    assert live.counts[ALLOWED_MISSING] > 0


def test_a_site_that_is_named_and_shows_nothing_is_missing_whatever_may_be(
    compare: Callable[..., Compared], tmp_path: Path
) -> None:
    allowed = Judgement(JUDGEMENT.bounds, allowed_missing=("*",))
    for found in compare(named(implementations.Silent), tmp_path, allowed):
        assert found.verdict is Verdict.MISSING
        assert found.first is not None
        assert found.first.site == "out_norm"


def test_both_dumps_are_whole(ours: Compared, folder: Path) -> None:
    assert ours[0].compared == ours[0].expected
    for role in ("reference", "candidate"):
        manifest = read_manifest(folder / role)
        assert manifest.observed == manifest.expected == len(list(read_records(folder / role)))


def test_a_side_that_fails_leaves_both_dumps_incomplete(compare: Callable[..., Compared], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        compare(named(implementations.Interrupted), tmp_path)
    for role in ("reference", "candidate"):
        with pytest.raises(ValueError, match="incomplete"):
            read_manifest(tmp_path / role)


@pytest.mark.parametrize("roles", [("eager", "reusing"), ("reusing", "eager"), ("reusing", "reusing")], ids=str)
def test_an_implementation_may_reuse_what_it_showed(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, roles: tuple[str, str]
) -> None:
    names = {"eager": "eager", "reusing": named(implementations.Reusing)}
    sides = [Side(role, load(names[role], tiny, fp32_on_cpu)) for role in roles]
    assert lockstep(*sides, tiny, tiny_scenario, JUDGEMENT).verdict is Verdict.IDENTICAL


def test_no_dump_is_needed_and_no_mode_of_torch_is_changed(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    sides = [Side("eager", load("eager", tiny, fp32_on_cpu)) for _ in range(2)]
    assert lockstep(*sides, tiny, tiny_scenario, JUDGEMENT).verdict is Verdict.IDENTICAL
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_unit_is_asked_for_where_it_is_rougher_than_those_that_were_measured() -> None:
    everywhere, late = Rung("denoise", 0, "time_embedding"), Rung("denoise", 0, "window")
    roughness = {0: {everywhere: 60.0, late: 1.0}, 1: {everywhere: 70.0, late: 2.0}, 2: {everywhere: 65.0, late: 1e4}}
    assert rougher_units(roughness, {0}) == [2]
    assert rougher_units(roughness, {0, 2}) == []
    # Where nothing was measured, all that is rough is asked for; and a site that no measured unit has.
    assert rougher_units(roughness, ()) == [0, 1, 2]
    assert rougher_units({0: {everywhere: 60.0}, 1: {everywhere: 60.0, late: 9.0}}, {0}) == [1]
