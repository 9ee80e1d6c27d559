"""Draws: which faults are put to the instrument together."""

import random
from collections.abc import Sequence

from waypoint_parity.harness.explain.scorecard.fault import Fault

# Draws have two and three faults in turn.
SIZES = (2, 3)


def draws(faults: Sequence[Fault], count: int, seed: int) -> list[list[Fault]]:
    """`count` random sets of faults that can be made together: on one checkpoint, in one precision, of different parts.

    Two faults of one part cannot be told apart by parts, and one may undo the other (a rotation that is left out has no
    axes to exchange). The same for the same faults in whatever order, unless they are renamed. Fewer where there are
    too few faults.
    """
    ordered = sorted(faults, key=lambda fault: (fault.part, fault.summary, fault.stage.name))
    generator = random.Random(seed)
    drawn: list[list[Fault]] = []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        # A fault of which there is no other on its checkpoint has none to be drawn with.
        for _ in range(len(ordered)):
            chosen = generator.choice(ordered) if ordered else None
            together = _together(chosen, ordered, size, generator) if chosen else None
            if together:
                drawn.append(together)
                break
    return drawn


def _together(first: Fault, faults: Sequence[Fault], size: int, generator: random.Random) -> list[Fault] | None:
    chosen = [first]
    for fault in generator.sample(list(faults), len(faults)):
        if len(chosen) == size:
            break
        if _alike(fault, first) and all(fault.part != other.part for other in chosen):
            chosen.append(fault)
    return chosen if len(chosen) == size else None


def _alike(fault: Fault, other: Fault) -> bool:
    """Whether two faults are shown on the same checkpoint in the same precision."""
    return (fault.stage.checkpoint, fault.stage.numerics) == (other.stage.checkpoint, other.stage.numerics)
