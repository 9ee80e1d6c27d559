"""Self-Forcing against FastVideo's causal Wan: parity over evictions, and nine faults seen at their own places."""

import pytest

from tests.candidate.test_causal_wan_fastvideo import is_there
from tests.reference.test_self_forcing import IS_THERE
from waypoint_parity.fixtures.faults.causal_wan import EVICTS, FAULTS, STAGE, SUITE, no_sink
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.fault import Fault
from waypoint_parity.harness.judge.comparison import Verdict

pytestmark = pytest.mark.skipif(
    not (IS_THERE and is_there()), reason="needs Self-Forcing and FastVideo in WAYPOINT_OFFICIAL_PATH"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SUITE, tmp_path_factory.mktemp("causal"))


def test_unchanged_they_agree(bench: Bench) -> None:
    comparison = bench.compare(bench.case(STAGE, []))
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected
    assert comparison.slots == []
    # The error of the latents does not grow, though the window rolls.
    errors = [unit.rel_l2 for unit in comparison.growth]
    assert len(errors) > EVICTS
    assert max(errors) < 2 * errors[0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen_first_where_it_is(bench: Bench, fault: Fault) -> None:
    comparison = bench.compare(bench.case(STAGE, [fault.change]))
    assert comparison.first is not None
    assert comparison.verdict in (Verdict.DIVERGED, Verdict.INCOMPARABLE)
    assert comparison.first.key == fault.first.key


def test_a_wrong_slot_after_an_eviction_is_named_by_what_it_holds(bench: Bench) -> None:
    first = bench.compare(bench.case(STAGE, [no_sink])).slots[0]
    assert (first.unit, first.phase, first.step, first.slot) == (EVICTS, "denoise", 0, 0)
    assert first.message.endswith("holds latent 2, expected latent 0")
