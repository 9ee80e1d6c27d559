import pickle

import numpy as np
import pytest

from tests.harness.observations import key
from waypoint_parity.harness.compare.columns import MOST_PLACES, Indices, Places, Seen


def codes(*pairs: tuple[int, int]) -> Indices:
    """The codes of (unit, place) pairs."""
    return np.array([unit * MOST_PLACES + place for unit, place in pairs], np.int64)


def test_a_place_keeps_its_number_also_in_another_process() -> None:
    places = Places()
    found = places.codes([key("latent"), key("patchify"), key("latent", unit=3)])
    assert found.tolist() == codes((0, 0), (0, 1), (3, 0)).tolist()
    assert pickle.loads(pickle.dumps(places)).key(int(found[2])) == key("latent", unit=3)


def test_a_branch_is_a_place_of_its_own() -> None:
    places, branch = Places(), key("latent")._replace(branch="uncond")
    assert places.codes([key("latent"), branch]).tolist() == codes((0, 0), (0, 1)).tolist()
    assert places.key(1) == branch


@pytest.mark.parametrize(
    ("first", "then", "again"),
    [
        ([(0, 0), (0, 1)], [(1, 0), (1, 1)], None),
        ([(0, 0), (0, 1)], [(1, 0), (0, 1)], 1),
        ([(0, 0)], [(1, 5), (700, 5), (1, 5)], 2),
        ([(0, 300)], [(255, 0), (256, 0), (0, 300)], 2),
    ],
)
def test_what_was_seen_before_is_found(
    first: list[tuple[int, int]], then: list[tuple[int, int]], again: int | None
) -> None:
    seen = Seen()
    assert seen.add(codes(*first)) is None
    assert seen.add(codes(*then)) == again
    assert len(seen) == len({*first, *then})


def test_the_units_of_a_place_come_in_order() -> None:
    seen = Seen()
    seen.add(codes((900, 2), (3, 2), (4, 1)))
    assert (seen.units_of(2), seen.units_of(7), seen.units([1, 2])) == ([3, 900], [], [3, 4, 900])


def test_merging_finds_what_both_have_by_the_numbers_of_the_first() -> None:
    ours, theirs = Seen(), Seen()
    ours.add(codes((0, 1)))
    theirs.add(codes((0, 0), (5, 1)))
    assert ours.merge(theirs, np.array([1, 0])) == int(codes((0, 1))[0])
    assert ours.units_of(0) == [5]
