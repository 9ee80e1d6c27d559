from typing import Any, Literal

import pytest

from waypoint_parity.harness.cli.text.scorecard import scorecard_lines
from waypoint_parity.harness.explain.blame.result import Proof, Share
from waypoint_parity.harness.explain.scorecard.card import CleanRow, FaultRow, Scorecard, StackedRow, scorecard

ALL = Share(mean_abs=1.0, ssim=1.0, sharpness=1.0, all_pictures=1.0)
HALF = Share(mean_abs=0.5, ssim=1.0, sharpness=1.0, all_pictures=1.0)
EARLY = Share(mean_abs=None, ssim=None, sharpness=None, all_pictures=0.95)
INVISIBLE = Share(mean_abs=None, ssim=None, sharpness=None, all_pictures=None)


def row(**changes: Any) -> FaultRow:
    values: dict[str, Any] = {
        "name": "a fault",
        "stage": "two frames",
        "detected": True,
        "first": "u0/denoise0/velocity",
        "expected": "u0/denoise0/velocity",
        "first_site_right": True,
        "part": "velocity",
        "blamed": ["velocity"],
        "group_right": True,
        "rank": 1,
        "restored": True,
        "contradictions": [],
        "necessity": ALL,
        "sufficiency": ALL,
        "kinds": [],
        "proven": [],
        "refuted": [],
        "seconds": 1.0,
    }
    return FaultRow(**(values | changes))


def proof(by: Literal["hypothesis", "relation", "extent"]) -> Proof:
    return Proof(site="mlp", by=by, statement="its sign is flipped", before=2.0, after=1e-7, observations=3)


def stacked(blamed: list[str]) -> StackedRow:
    return StackedRow(
        names=["one", "other"], parts=["cache", "mlp"], blamed=blamed, restored=True, contradictions=[], seconds=1.0
    )


def clean(alarm: str | None = None) -> CleanRow:
    return CleanRow(name="clean", stage="two frames", verdict="WITHIN_NOISE", alarm=alarm, seconds=1.0)


def card_of(*rows: FaultRow) -> Scorecard:
    return scorecard(rows, [], [], seconds=0.0)


def test_a_card_adds_its_rows_up() -> None:
    missed = row(detected=False, first_site_right=False, group_right=False, rank=None)
    second = row(rank=2, sufficiency=HALF, proven=[proof("relation")], refuted=["another kind"])
    extent = row(proven=[proof("extent")])
    card = scorecard([extent, missed, second], [stacked(["mlp", "cache"]), stacked(["mlp"])], [clean()], seconds=3.0)
    assert (card.faults, card.detected, card.first_site_right, card.group_right, card.blame_top1) == (3, 2, 2, 2, 1)
    assert (card.explained, card.explainable) == (2, 3)
    assert card.proven == 1
    assert (card.stacked, card.stacked_named) == (2, 1)
    assert (card.clean_runs, card.false_alarms) == (1, 0)


@pytest.mark.parametrize(
    ("necessity", "sufficiency", "explained"),
    [
        (ALL, ALL, True),
        (ALL, HALF, False),
        (HALF, ALL, False),
        # The last picture does not show the fault: all pictures count.
        (EARLY, EARLY, True),
        # No picture shows it, or nothing was measured: it is not counted.
        (INVISIBLE, INVISIBLE, None),
        (None, None, None),
        (ALL, None, True),
    ],
)
def test_a_fault_is_explained_where_both_shares_are_large(
    necessity: Share | None, sufficiency: Share | None, explained: bool | None
) -> None:
    assert row(necessity=necessity, sufficiency=sufficiency).explained is explained


@pytest.mark.parametrize(
    ("rows", "short"),
    [
        ([row()] * 20, []),
        # Each share is asked for by itself: all detected, 95 % placed, 90 % blamed.
        ([row()] * 19 + [row(detected=False)], ["detected: 19 of 20, asked 100%"]),
        ([row()] * 19 + [row(first_site_right=False)], []),
        ([row()] * 18 + [row(first_site_right=False)] * 2, ["right first site: 18 of 20, asked 95%"]),
        ([row()] * 18 + [row(rank=2)] * 2, []),
        ([row()] * 17 + [row(rank=None)] * 3, ["true part blamed first: 17 of 20, asked 90%"]),
        ([row()] * 17 + [row(necessity=HALF)] * 3, ["picture error explained: 17 of 20, asked 90%"]),
    ],
)
def test_a_card_is_true_where_nothing_falls_short(rows: list[FaultRow], short: list[str]) -> None:
    card = card_of(*rows)
    assert card.shortfalls == short
    assert bool(card) is (not short)


def test_a_false_alarm_falls_short_by_itself() -> None:
    card = scorecard([row()], [], [clean(), clean("velocity")], seconds=0.0)
    assert card.shortfalls == ["false alarms: 1, asked none"]
    assert any("FALSE ALARM: clean" in line for line in scorecard_lines(card))


def test_stacked_faults_count_where_all_are_named() -> None:
    card = scorecard([], [stacked(["mlp", "cache", "rotation"])] * 4 + [stacked(["mlp"])], [], seconds=0.0)
    assert card, "four of five are 80 %"
    assert card.stacked_rows[0].unfounded == ["rotation"]
    assert card.stacked_rows[-1].missed == ["one"]
    lines = "\n".join(scorecard_lines(card))
    assert "not named: one" in lines
    assert "blamed without a fault: rotation" in lines


def test_what_went_wrong_is_said_beside_the_fault() -> None:
    wrong = row(first="u0/denoise0/latent", first_site_right=False, rank=2, blamed=["sampler", "velocity"])
    lines = "\n".join(scorecard_lines(card_of(wrong)))
    assert "WRONG" in lines
    assert "seen first at u0/denoise0/latent, expected u0/denoise0/velocity" in lines
    assert "the true part is velocity" in lines
    assert "MISSED" in "\n".join(scorecard_lines(card_of(row(detected=False, first=None, first_site_right=False))))


def test_the_smallest_size_is_shown_with_its_unit() -> None:
    sized = row(smallest=2.5e-4, missed=1.25e-4, unit="guidance - 1")
    assert "2.5e-04 guidance - 1" in "\n".join(scorecard_lines(card_of(sized)))
