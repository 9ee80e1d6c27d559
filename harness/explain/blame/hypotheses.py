"""Hypotheses that run: a mistake made in the reference on purpose, and whether that gives what the candidate shows.

All of it on the same right inputs: the changed reference is fed at every site as the candidate was. A hypothesis is
proven where it gives the candidate's values in every observation that was kept, is wrong by as much in all others of
the part and wherever else it changes something, and changes no site at which the candidate is right.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from waypoint_parity.harness.errors import EngineError, UserError
from waypoint_parity.harness.explain.blame.local import LocalErrors, LocalValues
from waypoint_parity.harness.explain.blame.relations import SLACK, Values, distance
from waypoint_parity.harness.explain.blame.result import Proof
from waypoint_parity.harness.run.adapter import Hypothesis
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.registry import module_at

# Of each part at fault, the likeliest first.
MOST_TRIED = 48
# What leaves less than this share of the error is near: perhaps the same mistake in other arithmetic.
_NEAR = 1e-3


@dataclass(frozen=True)
class PartAtFault:
    """What is wrong by itself in one part: the values of some observations, and the `keys` of all.

    `errors` has the relative L2 error of every observation that is wrong in the candidate, of whatever part; `absent`
    are those that it does not show; `bound` is the noise of any key. `is_only_watched`: a run with a mistake shows how
    far it is from the candidate, which takes no values; else how far from the reference.
    """

    part: str
    pairs: Sequence[Values]
    keys: frozenset[Key]
    errors: Mapping[Key, float]
    absent: frozenset[Key]
    bound: Callable[[Key], float]
    is_only_watched: bool


# Runs the reference with a change, fed as the candidate was, over all units or the first ones.
Run = Callable[[Hypothesis, Callable[[LocalValues], None], int | None], LocalErrors]


def hypothesis_called(name: str) -> Hypothesis:
    """A user's own: the function at `path/to/file.py:function`, or `package.module:function`.

    Raises UserError where there is none.
    """
    location, colon, attribute = name.rpartition(":")
    change = getattr(module_at(location), attribute, None) if colon else None
    if not callable(change):
        raise UserError(
            f"{name}: is no mistake that can be tried",
            found=f"{attribute} is {type(change).__name__}" if colon else "a name without a file",
            expected="path/to/file.py:function, which takes an adapter of the reference and changes it",
            do="correct --try",
        )
    return Hypothesis(name, (inspect.getdoc(change) or "your change").partition("\n")[0], change, is_own=True)


def tried(
    wrong: PartAtFault, hypotheses: Sequence[Hypothesis], kinds: Sequence[str], run: Run, is_over: Callable[[], bool]
) -> tuple[list[Proof], list[str]]:
    """(what is proven of a part, kinds of fault that are not it), of the hypotheses that are about it.

    `kinds` of fault that the part can have, the likeliest first: in this order they are tried, behind a user's own.
    Once the time `is_over` none is tried any more.
    """
    order = {kind: place for place, kind in enumerate(kinds)}
    about = [each for each in hypotheses if (wrong.part in each.parts if each.parts else each.kind in order)]
    about.sort(key=lambda each: order.get(each.kind, len(order)))
    about = [*(each for each in hypotheses if each.is_own), *about]
    proofs, failed = [], dict[str, None]()
    # Kinds that are not refuted: proven, near, or of which some forms were not tried.
    spared = set[str]()
    before = max(pair.error for pair in wrong.pairs)
    for place, hypothesis in enumerate(about):
        if place == MOST_TRIED or is_over():
            spared |= {each.kind for each in about[place:]}
            break
        left = _outcome(wrong, hypothesis, run)
        if left.holds:
            proof = Proof(
                site=wrong.pairs[0].key.site,
                by="hypothesis",
                statement=f"{hypothesis.kind}: {hypothesis.said}",
                before=before,
                after=left.error,
                observations=len(wrong.pairs),
            )
            proofs.append(proof)
        if left.holds or left.error <= _NEAR * before:
            spared.add(hypothesis.kind)
        else:
            failed[hypothesis.kind] = None
    return proofs, [kind for kind in failed if kind not in spared]


@dataclass(frozen=True)
class _Outcome:
    """The largest error that a hypothesis leaves, infinite where it is unlike; and whether it holds."""

    error: float
    holds: bool


def _outcome(wrong: PartAtFault, hypothesis: Hypothesis, run: Run) -> _Outcome:
    """What the hypothesis leaves. The first units are a sieve."""
    units = [pair.key.unit for pair in wrong.pairs]
    if min(units) < max(units):
        sieved = _tried_on(wrong, hypothesis, run, min(units) + 1)
        if not sieved.holds:
            return sieved
    return _tried_on(wrong, hypothesis, run, None)


class _UnlikeError(Exception):
    """The changed reference does not give what the candidate shows: the rest of its session need not be run."""

    def __init__(self, left: float = math.inf) -> None:
        super().__init__()
        self.left = left


def _tried_on(wrong: PartAtFault, hypothesis: Hypothesis, run: Run, units: int | None) -> _Outcome:
    expected: Mapping[Key, Values] = {pair.key: pair for pair in wrong.pairs if units is None or pair.key.unit < units}
    left: dict[Key, float] = {}

    def look(seen: LocalValues) -> None:
        pair = expected.get(seen.key)
        if pair is None:
            _check_other(seen, wrong)
            return
        if seen.actual.shape != pair.shown.shape:
            raise _UnlikeError
        left[seen.key] = distance(pair.shown, seen.actual.double(), relative_to=pair.shown)
        if not left[seen.key] <= SLACK * pair.bound:
            raise _UnlikeError(left[seen.key])

    try:
        local = run(hypothesis, look, units)
    except _UnlikeError as unlike:
        return _Outcome(unlike.left, holds=False)
    except EngineError:
        # Of this checkpoint the mistake may make something that does not run. What a user wrote has to.
        if hypothesis.is_own:
            raise
        return _Outcome(math.inf, holds=False)
    if left.keys() != expected.keys() or not (wrong.errors.keys() | wrong.absent).issuperset(local.lacking):
        return _Outcome(math.inf, holds=False)
    return _Outcome(max(left.values()), holds=True)


def _check_other(seen: LocalValues, wrong: PartAtFault) -> None:
    """An observation whose values were not kept: wrong by as much as the candidate's, or right.

    What is wrong in the part itself must not be right.
    """
    if seen.key in wrong.absent:
        return
    if wrong.is_only_watched:
        of_another_part = seen.key in wrong.errors and seen.key not in wrong.keys
        if not (of_another_part or seen.error.identical or seen.error.rel_l2 <= SLACK * wrong.bound(seen.key)):
            raise _UnlikeError(seen.error.rel_l2)
        return
    error, bound = wrong.errors.get(seen.key, 0.0), wrong.bound(seen.key)
    if seen.key not in wrong.keys and (seen.error.identical or seen.error.rel_l2 <= bound):
        return
    # Equal where neither has a distance.
    off = 0.0 if seen.error.rel_l2 == error else abs(seen.error.rel_l2 - error)
    if not off <= SLACK * bound * (1 + error):
        raise _UnlikeError(off if error else math.inf)
