from collections.abc import Callable, Mapping

import pytest
import torch

from tests.harness.observations import FAMILY, Seen
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.judge.noise_floor.harmless import (
    EVERYTHING,
    JitteredNoise,
    OtherThreadCount,
    RoundedOtherwise,
    harmless,
)
from waypoint_parity.harness.judge.noise_floor.measure import against_itself
from waypoint_parity.harness.run.adapter import DTYPES, Adapter, Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.taps import recording
from waypoint_parity.harness.run.worker import exact_arithmetic

Measure = Callable[[Callable[[Adapter], Adapter], str], Mapping[Key, Error]]


@pytest.fixture
def errors(tiny: Checkpoint, tiny_scenario: Scenario) -> Measure:
    """The errors of the reference under a change, from the reference."""

    def measure(change: Callable[[Adapter], Adapter], dtype: str) -> Mapping[Key, Error]:
        numerics = Numerics(DTYPES[dtype], torch.device("cpu"))
        plain, changed = load("eager", tiny, numerics), change(load("eager", tiny, numerics))
        return against_itself(plain, changed, tiny, tiny_scenario)

    return measure


def rounded(adapter: Adapter) -> Adapter:
    return RoundedOtherwise(adapter, FAMILY.sites)


def at(errors: Mapping[Key, Error], site: str) -> Error:
    return errors[Key(0, "denoise", 0, site)]


@pytest.mark.parametrize(("dtype", "least", "most"), [("fp32", 1e-7, 5e-7), ("bf16", 1e-3, 4e-3)])
def test_rounding_otherwise_reaches_every_site_with_an_error_of_its_dtypes_size(
    errors: Measure, dtype: str, least: float, most: float
) -> None:
    found = errors(rounded, dtype)
    unmoved = {key.site for key, error in found.items() if error.identical}
    assert {site for site in unmoved if not site.endswith((".written", ".visible"))} == set()
    # Nothing comes before them: the error is the site's own.
    for site in ("denoise_step_emb", "ctrl_emb", "patchify"):
        assert least < at(found, site).rel_l2 < most


def test_rounding_otherwise_draws_from_its_seed(errors: Measure) -> None:
    first, again = errors(rounded, "fp32"), errors(rounded, "fp32")
    other = errors(lambda adapter: RoundedOtherwise(adapter, FAMILY.sites, seed=1), "fp32")
    assert first == again != other


def test_jittered_noise_moves_what_is_made_of_the_noise_and_nothing_before(errors: Measure) -> None:
    found = errors(JitteredNoise, "fp32")
    assert at(found, "denoise_step_emb").identical
    assert at(found, "ctrl_emb").identical
    assert 3e-8 < at(found, "patchify").rel_l2 < 3e-7


def test_jittered_noise_is_lost_in_bf16(errors: Measure) -> None:
    """A jitter of 1e-7 moves one value in forty thousand to the next number of bf16."""
    assert at(errors(JitteredNoise, "bf16"), "patchify").rel_l2 < 1e-3


def test_another_thread_count_holds_while_a_pass_runs_and_no_longer(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    adapter = load("eager", tiny, fp32_on_cpu)
    threads: list[int] = []
    adapter.sites()["frame"].module.register_forward_hook(lambda *_: threads.append(torch.get_num_threads()))
    before, between = torch.get_num_threads(), set()
    with recording({}, Seen()) as recorder, exact_arithmetic():
        for _ in passes(OtherThreadCount(adapter), tiny_scenario, tiny, recorder):
            between.add(torch.get_num_threads())
    assert threads == [2 if before == 1 else 1] * tiny_scenario.units
    assert between == {before} == {torch.get_num_threads()}


def test_the_changes_are_the_implementations_own_and_those_of_any(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    anyones = ["thread count", "noise jitter", "rounding", EVERYTHING]
    assert list(harmless("eager", tiny, fp32_on_cpu)) == ["fused-attention", "merged-projections", *anyones]
    assert list(harmless("candidate", tiny, fp32_on_cpu)) == anyones
