"""Pace: sessions that run pass by pass when they are told to, and two of them kept at the same pass."""

from collections.abc import Callable, Iterator
from typing import get_args

from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.keys import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)

# A pass of a session: frame, phase, step.
At = tuple[int, Phase, int]


class Paced:
    """A session of which one pass runs at a time. `at` is the next one, None at the end."""

    def __init__(self, session: Iterator[tuple[int, Pass]]) -> None:
        self._session = session
        self.at: At | None = None
        self.run()

    def run(self) -> None:
        """Run the next pass, which has been announced, and have the one after it announced."""
        announced = next(self._session, None)
        self.at = None if announced is None else (announced[0], announced[1].phase, announced[1].step)


def rank(at: At) -> tuple[int, int, int]:
    """The place of a pass in a session's order."""
    frame, phase, step = at
    return frame, PHASES.index(phase), step


def keep_pace(leading: Paced, following: Paced, alone: Callable[[At, str], None]) -> None:
    """Run both to the end, each pass of `leading` just before the same pass of `following`.

    `alone` is told of every pass that only one of them has, which is "leading" or "following".
    """
    while leading.at is not None or following.at is not None:
        ahead = None if leading.at is None else rank(leading.at)
        behind = None if following.at is None else rank(following.at)
        first = min(place for place in (ahead, behind) if place is not None)
        if leading.at is not None and ahead == first:
            if behind != first:
                alone(leading.at, "leading")
            leading.run()
        if following.at is not None and behind == first:
            if ahead != first:
                alone(following.at, "following")
            following.run()
