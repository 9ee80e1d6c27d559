from typing import Any

import msgspec
import pytest

from waypoint_parity.harness.explain.blame.result import Blame, Cause, ExchangeShares, Share
from waypoint_parity.harness.explain.blame.text import blame_lines, ladder_lines

NONE = Share(mean_abs=None, ssim=None, sharpness=None, all_pictures=None)


def printed(blame: Blame, **changes: Any) -> str:
    return "\n".join(blame_lines(msgspec.structs.replace(blame, **{"exchanges": [], **changes})))


def cause(blame: Blame, **changes: Any) -> list[Cause]:
    """The one cause of a blame, with changes."""
    return [msgspec.structs.replace(blame.causes[0], **changes)]


def test_a_cause_is_told_with_where_it_is_what_it_costs_and_what_it_looks_like(of_velocity: Blame) -> None:
    text = printed(of_velocity)
    assert text.startswith("DIVERGED: candidate against eager")
    assert "cause 1 of 1:     velocity (head): 2 of 2 observations wrong by themselves" in text
    assert "first:          velocity at unit 0, denoise step 0: 1.00e-01, bound" in text
    assert "with the reference's, 100% (mean |d|), 100% (SSIM), 100% (sharpness) of the error is gone" in text
    assert "put into the reference, it makes 100% (mean |d|)" in text
    assert "a relative error of 1 at velocity changes the picture by" in text
    assert "looks like:     frame 0" in text
    assert all(explanation.check in text for explanation in of_velocity.causes[0].explanations)
    assert "restored:         parity holds once candidate has it from eager" in text
    assert "CONTRADICTION" not in text
    assert "not measured" not in text


def test_a_cause_of_some_blocks_names_them_and_of_all_says_so(of_velocity: Blame) -> None:
    layered = msgspec.structs.replace(of_velocity.causes[0].signature, layers="every layer")
    everywhere = cause(of_velocity, name="mlp", blocks=None, signature=layered)
    assert "mlp of every block that has it (" in printed(of_velocity, causes=everywhere)
    some = cause(of_velocity, name="mlp of block 1", blocks=[1], signature=layered)
    assert "mlp of block 1 (" in printed(of_velocity, causes=some)


def test_the_worst_error_is_told_where_it_is_another_than_the_first(of_velocity: Blame) -> None:
    first = of_velocity.causes[0].first
    assert "worst:" not in printed(of_velocity, causes=cause(of_velocity, worst=first))
    worse = msgspec.structs.replace(first, unit=3, rel_l2=None, note="shape [2], not [1]")
    text = printed(of_velocity, causes=cause(of_velocity, worst=worse))
    assert "worst:          velocity at unit 3, denoise step 0: shape [2], not [1]" in text


def test_the_region_is_told_where_there_is_one(of_velocity: Blame) -> None:
    assert "or before it:" not in printed(of_velocity)
    text = printed(of_velocity, causes=cause(of_velocity, region_parts=["patchify", "output norm", "velocity"]))
    assert "or before it:   patchify, output norm, velocity; map their sites to tell" in text


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (NONE, "nothing that counts of the error is gone"),
        (msgspec.structs.replace(NONE, ssim=-0.5), "-50% (SSIM) of the error"),
        (
            msgspec.structs.replace(NONE, all_pictures=0.5),
            "50% (mean |d| of all pictures; the final one does not differ)",
        ),
    ],
)
def test_a_share_is_told_of_the_final_picture_where_that_differs(of_velocity: Blame, share: Share, told: str) -> None:
    assert told in printed(of_velocity, causes=cause(of_velocity, necessity=share, sufficiency=None))


def test_what_was_not_measured_of_a_cause_is_left_out(of_velocity: Blame) -> None:
    bare = cause(of_velocity, necessity=None, sufficiency=None, gain=None)
    text = printed(of_velocity, causes=bare)
    assert not any(word in text for word in ("necessary:", "sufficient:", "gain:"))


def test_several_causes_are_numbered_and_restore_together(of_velocity: Blame) -> None:
    text = printed(of_velocity, causes=of_velocity.causes * 2)
    assert "cause 1 of 2:" in text
    assert "cause 2 of 2:" in text
    assert "parity holds once candidate has all of them from eager" in text


def test_of_a_candidate_that_was_only_watched_it_is_the_reference_that_its_parts_were_put_into(
    of_velocity: Blame,
) -> None:
    assert "restored:         eager with it from candidate agrees with candidate" in printed(
        of_velocity, fed="reference"
    )


def test_contradictions_and_what_the_budget_left_out_are_told(of_velocity: Blame) -> None:
    text = printed(
        of_velocity, restored=False, contradictions=["there is still latent"], unmeasured=["gain at velocity"]
    )
    assert "restored:" not in text
    assert "CONTRADICTION:    there is still latent" in text
    assert "not measured:     gain at velocity" in text


def test_where_nothing_is_to_blame_that_is_said(of_velocity: Blame) -> None:
    text = printed(of_velocity, causes=[], restored=None)
    assert "no site does anything wrong by itself" in text
    assert "restored:" not in text


def test_what_the_user_asked_to_be_exchanged_is_told_with_its_shares(of_velocity: Blame) -> None:
    share = msgspec.structs.replace(NONE, mean_abs=0.25)
    text = printed(of_velocity, exchanges=[ExchangeShares(name="block 3", necessity=share, sufficiency=share)])
    assert "exchanged:        block 3\n    necessary:      with the reference's, 25% (mean |d|)" in text


def test_the_ladder_marks_the_sites_that_do_something_wrong_by_themselves(of_velocity: Blame) -> None:
    header, *rungs = ladder_lines(of_velocity)
    assert header.split() == ["phase", "step", "site", "local", "bound", "inherited", "gain"]
    assert len(rungs) == len(of_velocity.sites)
    marked = [line.split() for line in rungs if "<- by itself" in line]
    assert [words[:3] for words in marked] == [["denoise", "0", "velocity"], ["denoise", "1", "velocity"]]


def test_a_rung_without_a_distance_is_marked_and_has_no_number(of_velocity: Blame) -> None:
    rung = msgspec.structs.replace(of_velocity.sites[0], local=None, inherited=None, gain=0.5)
    (line,) = ladder_lines(msgspec.structs.replace(of_velocity, sites=[rung]))[1:]
    assert line.endswith("<- by itself")
    assert line.split()[3:7:2] == ["-", "-"]
    assert line.split()[6] == "5.0e-01"
