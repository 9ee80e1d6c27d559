import msgspec
import pytest

from tests.harness.explain.scorecard.suites import FEW, RENAMED
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.scorecard.card import FaultRow, Scorecard, StackedRow
from waypoint_parity.harness.explain.scorecard.score import ScorecardPlan, score, trials
from waypoint_parity.harness.explain.scorecard.suite import find_suite

# Two whole scorecards; a part of one is a session of its own.
pytestmark = pytest.mark.slow
SUITES = "tests.harness.explain.scorecard.suites"


@pytest.fixture(scope="module", params=["FEW", "RENAMED"])
def name(request: pytest.FixtureRequest) -> str:
    suite: str = request.param
    return suite


@pytest.fixture(scope="module")
def cards() -> dict[str, Scorecard]:
    """The scorecards of both suites."""
    made: dict[str, Scorecard] = {}
    for suite in ("FEW", "RENAMED"):
        done: list[str] = []
        plan = ScorecardPlan(f"{SUITES}:{suite}", stacked=1, sizes=False)
        made[suite] = score(plan, jobs=2, announce=done.append)
        assert len(done) == 6
    return made


def test_every_fault_is_detected_placed_and_blamed_and_nothing_else_is(name: str, cards: dict[str, Scorecard]) -> None:
    card = cards[name]
    assert card, card.shortfalls
    assert (card.faults, card.detected, card.first_site_right, card.group_right, card.blame_top1) == (4, 4, 4, 4, 4)
    assert (card.explained, card.explainable) == (4, 4)
    assert (card.stacked, card.stacked_named, card.clean_runs, card.false_alarms) == (1, 1, 1, 0)
    assert all(row.restored and not row.contradictions for row in card.rows)
    assert all(row.restored and not row.contradictions and not row.unfounded for row in card.stacked_rows)


def test_nothing_is_told_by_a_name_or_by_the_order(cards: dict[str, Scorecard]) -> None:
    few, renamed = cards["FEW"], cards["RENAMED"]
    assert [told(row) for row in few.rows] == [told(row) for row in reversed(renamed.rows)]
    assert [row.name for row in few.rows] == [row.name for row in renamed.rows], "each has another one's name"
    assert [together(row) for row in few.stacked_rows] == [together(row) for row in renamed.stacked_rows]


def told(row: FaultRow) -> FaultRow:
    """A row without its name and its time."""
    return msgspec.structs.replace(row, name="", seconds=0.0)


def together(row: StackedRow) -> tuple[set[str], list[str]]:
    return set(row.parts), row.blamed


def test_a_plan_has_the_faults_that_are_wanted_their_draws_and_the_harmless_changes() -> None:
    planned = trials(ScorecardPlan("", stacked=2), FEW)
    assert [trial.faults for trial in planned[:4]] == [(0,), (1,), (2,), (3,)]
    assert [len(trial.faults) for trial in planned[4:6]] == [2, 3]
    assert [trial.harmless for trial in planned[6:]] == [0]
    only = trials(ScorecardPlan("", only=("rope-*",)), FEW)
    assert [trial.name for trial in only] == ["rope-missing"], "nothing to draw one fault with"


def test_sizes_are_looked_for_in_trials_of_one_fault() -> None:
    assert all(trial.sizes is (len(trial.faults) == 1) for trial in trials(ScorecardPlan("", stacked=3), FEW))
    assert not any(trial.sizes for trial in trials(ScorecardPlan("", sizes=False), FEW))


def test_a_plan_without_trials_is_refused() -> None:
    with pytest.raises(UserError, match="nothing of it is to be run") as error:
        trials(ScorecardPlan("suite", only=("no-such-*",)), RENAMED)
    assert error.value.found == "--only no-such-*"


@pytest.mark.parametrize(
    ("called", "found"),
    [
        ("FEW", "a name without a module"),
        (f"{SUITES}:MANY", "MANY is NoneType"),
        (f"{SUITES}:NO_SUITE", "NO_SUITE is int"),
        ("no.such.module:SUITE", "No module named"),
    ],
)
def test_a_name_that_is_no_suite_is_refused(called: str, found: str) -> None:
    with pytest.raises(UserError) as error:
        find_suite(called)
    assert found in error.value.found


def test_a_suite_is_found_in_a_module_and_in_a_file() -> None:
    assert find_suite(f"{SUITES}:FEW") is FEW
    assert len(find_suite("tests/harness/explain/scorecard/suites.py:FEW").faults) == len(FEW.faults)
