"""Local errors: what each site does wrong by itself, with the right values at every site before it.

One run for all sites: in every step each site of the candidate is measured against the reference's, and the reference's
value then takes its place. Where the candidate's sites can be watched and not patched, the other way round: the
reference is fed what the candidate shows, and what it makes of that is what the candidate should have made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.run.adapter import Adapter, Site
from waypoint_parity.harness.run.keys import At, Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import Paced, counting, keep_pace, order_of, passes
from waypoint_parity.harness.run.taps import Observation, Taps, counted
from waypoint_parity.harness.run.worker import exact_arithmetic


@dataclass
class LocalErrors:
    """What a run with the right values before every site showed.

    `errors` of the observations that both sides have, in the order of execution, and the `roundoff` of their dtype, 0
    where it is exact; `lacking`: what the candidate did not show of a step that it ran; `alone`: steps that one side
    only has, and which; `patched`: the sites whose errors no later site inherits.
    """

    patched: set[str] = field(default_factory=set)
    errors: dict[Key, Error] = field(default_factory=dict)
    roundoff: dict[Key, float] = field(default_factory=dict)
    lacking: list[Key] = field(default_factory=list)
    alone: list[tuple[At, str]] = field(default_factory=list)


class LocalValues(NamedTuple):
    """One observation of a local run, and its `error`: `given` went on on both sides.

    The implementation may reuse its tensors.
    """

    key: Key
    actual: Tensor
    expected: Tensor
    given: Tensor
    error: Error

    @property
    def turned(self) -> Self:
        """The same with both sides exchanged."""
        return self._replace(actual=self.expected, expected=self.actual)


@dataclass(frozen=True)
class _Options:
    """What a local run is to do: see `local_errors`; and which positions of an observation count."""

    reverse: bool
    feeding: Callable[[Key], bool]
    looking: Callable[[LocalValues], None]
    counts: Callable[[Key], Tensor | None]


def local_errors(
    reference: Adapter,
    candidate: Adapter,
    checkpoint: Checkpoint,
    scenario: Scenario,
    *,
    reverse: bool = False,
    feeding: Callable[[Key], bool] = lambda key: True,
    looking: Callable[[LocalValues], None] = lambda seen: None,
) -> LocalErrors:
    """The local error of every observation of a session.

    `reverse`: patch the reference instead of the candidate. `feeding`: where the other side's value is put; of what is
    not fed, errors are those of a session that goes on with its own. `looking` is shown the values themselves.
    """
    leading, following = (candidate, reference) if reverse else (reference, candidate)
    fed = following.sites()
    both = {name: site for name, site in leading.sites().items() if name in fed}
    found = LocalErrors()
    counts = counting(scenario, checkpoint)
    asked = _Options(reverse=reverse, feeding=feeding, looking=looking, counts=counts)
    _Run(leading, following, both, fed, found, asked).drive(checkpoint, scenario)
    return found


def must_be_reversed(candidate: Mapping[str, Site]) -> bool:
    """Whether too little of a candidate can be patched, though it can be watched."""
    fixed = sum(not site.is_patchable for site in candidate.values())
    return 2 * fixed > len(candidate)


class _Run:
    """Two sessions, of which the second is fed what the first shows."""

    def __init__(
        self,
        leading: Adapter,
        following: Adapter,
        shown: Mapping[str, Site],
        fed: Mapping[str, Site],
        found: LocalErrors,
        asked: _Options,
    ) -> None:
        self._asked = asked
        self._adapters = leading, following
        self._watch = Taps(shown, self._keep)
        self._feed = Taps({name: fed[name] for name in shown}, self._measure)
        self._found = found
        self._kept: dict[Key, Tensor] = {}

    @exact_arithmetic()
    def drive(self, checkpoint: Checkpoint, scenario: Scenario) -> None:
        with self._watch, self._feed:
            sessions = [
                Paced(passes(adapter, scenario, checkpoint, taps))
                for adapter, taps in zip(self._adapters, (self._watch, self._feed), strict=True)
            ]
            keep_pace(sessions, order_of(scenario, checkpoint), self._alone)
        self._forget()
        self._found.patched = {key.site for key in self._found.errors} - self._feed.refused

    def _keep(self, seen: Observation) -> None:
        if self._kept and next(iter(self._kept)).at != seen.key.at:
            self._forget()
        # The implementation may reuse its tensor.
        self._kept[seen.key] = seen.tensor.detach().clone()

    def _measure(self, seen: Observation) -> Tensor | None:
        key, value = seen.key, seen.tensor
        given = self._kept.pop(key, None)
        if given is not None:
            # All of a value is handed on, and what counts of it is compared.
            which = self._asked.counts(key)
            pair = (given, value) if self._asked.reverse else (value, given)
            actual, expected = (counted(tensor, which) for tensor in pair)
            error = self._found.errors[key] = tensor_error(actual, expected)
            self._asked.looking(LocalValues(key, actual, expected, given, error))
            self._found.roundoff[key] = max(_roundoff(given), _roundoff(value))
        elif self._asked.reverse:
            self._lacks(key)
        return given if self._asked.feeding(key) else None

    def _alone(self, at: At, those: list[int]) -> None:
        self._found.alone.append((at, "candidate" if (0 in those) is self._asked.reverse else "reference"))

    def _forget(self) -> None:
        """Once a step is over, what is kept of it was not shown by the other side."""
        if not self._asked.reverse:
            for key in self._kept:
                self._lacks(key)
        self._kept.clear()

    def _lacks(self, key: Key) -> None:
        """The candidate did not show `key`: worth telling where it ran that step."""
        if all(key.at != at for at, _ in self._found.alone):
            self._found.lacking.append(key)


def _roundoff(value: Tensor) -> float:
    """The largest relative error of rounding to the dtype of `value`."""
    return torch.finfo(value.dtype).eps / 2 if value.is_floating_point() else 0.0
