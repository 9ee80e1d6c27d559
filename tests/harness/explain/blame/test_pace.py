from collections.abc import Iterator

from waypoint_parity.harness.explain.blame.pace import At, Paced, keep_pace, rank
from waypoint_parity.harness.families.waypoint.sites import session_passes
from waypoint_parity.harness.run.adapter import Pass

Ran = list[tuple[str, At]]


def at(frame: int, phase: str, step: int = 0) -> At:
    return frame, phase, step  # type: ignore[return-value]


def session(name: str, ran: Ran, *, steps: int = 2, frames: int = 1, prompt: bool = True) -> Iterator[tuple[int, Pass]]:
    """A session that says which passes it has run."""
    for frame, of in session_passes(steps, frames, prompt=prompt, image=False):
        yield frame, of
        ran.append((name, at(frame, of.phase, of.step)))


def side_by_side(leading: Iterator[tuple[int, Pass]], following: Iterator[tuple[int, Pass]]) -> list[tuple[At, str]]:
    """The passes that only one of two sessions has, once both are kept at the same pass."""
    alone: list[tuple[At, str]] = []
    keep_pace(Paced(leading), Paced(following), lambda at, role: alone.append((at, role)))
    return alone


def test_a_pass_is_announced_before_it_runs_and_runs_when_it_is_told_to() -> None:
    ran: Ran = []
    paced = Paced(session("one", ran))
    assert (paced.at, ran) == (at(0, "prompt"), [])
    paced.run()
    assert (paced.at, ran) == (at(0, "denoise", 0), [("one", at(0, "prompt"))])
    while paced.at is not None:
        paced.run()
    assert [of for _, of in ran[-3:]] == [at(0, "denoise", 1), at(0, "cache"), at(0, "decode")]


def test_each_pass_of_the_leading_session_runs_just_before_the_same_pass_of_the_following_one() -> None:
    ran: Ran = []
    assert side_by_side(session("leading", ran, frames=2), session("following", ran, frames=2)) == []
    assert [name for name, _ in ran] == ["leading", "following"] * 9
    assert [of for _, of in ran[::2]] == [of for _, of in ran[1::2]]


def test_a_step_that_one_session_has_more_is_told_with_its_side_and_the_rest_stays_aligned() -> None:
    for steps, role in (((3, 2), "leading"), ((2, 3), "following")):
        ran: Ran = []
        sessions = [session(str(number), ran, steps=steps[number], frames=2) for number in range(2)]
        assert side_by_side(*sessions) == [(at(0, "denoise", 2), role), (at(1, "denoise", 2), role)]
        shared = [entry for entry in ran if entry[1][1:] != ("denoise", 2)]
        assert [name for name, _ in shared] == ["0", "1"] * 9
        assert [of for _, of in shared[::2]] == [of for _, of in shared[1::2]]


def test_a_session_that_begins_earlier_or_ends_later_is_told_too() -> None:
    ran: Ran = []
    alone = side_by_side(session("leading", ran, frames=2), session("following", ran, prompt=False))
    beyond = [at(1, "denoise", 0), at(1, "denoise", 1), at(1, "cache"), at(1, "decode")]
    assert alone == [(of, "leading") for of in (at(0, "prompt"), *beyond)]


def test_the_passes_of_a_session_are_ranked_as_they_run() -> None:
    passes = [at(frame, of.phase, of.step) for frame, of in session_passes(3, 2, prompt=True, image=True)]
    assert sorted(passes, key=rank) == passes
