from dataclasses import replace

from waypoint_parity.fixtures.faults import SUITE
from waypoint_parity.harness.explain.scorecard.draws import draws


def summaries(seed: int, faults: object = SUITE.faults) -> list[set[str]]:
    return [{fault.summary for fault in drawn} for drawn in draws(faults, 15, seed)]  # type: ignore[arg-type]


def test_two_and_three_faults_are_drawn_in_turn() -> None:
    assert [len(drawn) for drawn in draws(SUITE.faults, 6, seed=0)] == [2, 3, 2, 3, 2, 3]


def test_faults_are_drawn_that_can_be_made_together() -> None:
    for drawn in draws(SUITE.faults, 60, seed=1):
        assert len({fault.part for fault in drawn}) == len(drawn)
        assert len({(fault.stage.checkpoint, fault.stage.numerics) for fault in drawn}) == 1


def test_a_seed_gives_the_same_draws_and_another_one_others() -> None:
    assert summaries(0) == summaries(0)
    assert summaries(0) != summaries(1)


def test_names_and_order_do_not_matter() -> None:
    renamed = [replace(fault, name=str(number)) for number, fault in enumerate(reversed(SUITE.faults))]
    assert summaries(0, renamed) == summaries(0)


def test_of_faults_that_have_no_other_to_be_made_with_none_is_drawn() -> None:
    assert draws(SUITE.faults[:1], 3, seed=0) == []
    assert draws([], 3, seed=0) == []
    of_one_part = [fault for fault in SUITE.faults if fault.part == "rotation"]
    assert draws(of_one_part, 3, seed=0) == []
