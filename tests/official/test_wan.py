"""The official Wan 2.1 against diffusers' pipeline: parity, and nine faults seen at their own places."""

import pytest

from tests.reference.test_wan_official import IS_THERE
from waypoint_parity.fixtures.faults.wan import FAULTS, STAGE, SUITE
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.fault import Fault
from waypoint_parity.harness.judge.comparison import Verdict

pytestmark = pytest.mark.skipif(not IS_THERE, reason="needs Wan2.1 in WAYPOINT_OFFICIAL_PATH")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SUITE, tmp_path_factory.mktemp("wan"))


def test_unchanged_they_agree(bench: Bench) -> None:
    comparison = bench.compare(bench.case(STAGE, []))
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen_first_where_it_is(bench: Bench, fault: Fault) -> None:
    comparison = bench.compare(bench.case(STAGE, [fault.change]))
    assert comparison.first is not None
    if comparison.verdict is Verdict.INCOMPARABLE:
        assert comparison.reason is not None
        assert fault.first.site in comparison.reason
        return
    assert (comparison.verdict, comparison.first.key) == (Verdict.DIVERGED, fault.first.key)
