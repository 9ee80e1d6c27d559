"""Exchange: an implementation in which some parts are computed by another one, from its own values.

Two sessions of one scenario run at once. The leader's is the one that counts. The shadow's follows it: at every site
that is not exchanged the leader's value takes the place of the shadow's. So at a site that is exchanged the shadow
shows what its own part makes of the leader's values, and there its value takes the place of the leader's.

The leader waits at such a site until the shadow has come there, which needs a session that can be left in the middle
of a pass and taken up again: a greenlet. The shadow in turn does not go past a site that the leader has yet to show.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch
from greenlet import greenlet
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.exchanges import Exchange, carried, exchanged
from waypoint_parity.harness.run.adapter import Adapter, Pass, Site
from waypoint_parity.harness.run.keys import At, Key, Order, block_of, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import order_of
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation, Taps


class Exchanged:
    """An adapter that drives `leader`, with the parts of `exchanges` computed by `shadow`, while its context is open.

    `refused`: the sites of those parts at which one of the two has no value to give or to take.
    """

    def __init__(self, leader: Adapter, shadow: Adapter, exchanges: Iterable[Exchange], checkpoint: Checkpoint) -> None:
        self._leader, self._shadow = leader, shadow
        self._exchanges = tuple(exchanges)
        self._checkpoint = checkpoint
        self._table = checkpoint.family.sites
        sites = leader.sites()
        self._led = Taps(sites, self._lead)
        self._fixed = {name for name, site in sites.items() if not site.is_patchable}
        self._shadowed = Taps(shadow.sites(), self._follow)
        self._attached = ExitStack()
        self._following: _Following | None = None
        # Of the step in work: what the leader has shown, and what the shadow has made where parts are exchanged.
        self._shown: dict[Key, Tensor] = {}
        self._made: dict[Key, Tensor] = {}
        self._wanted: Key | None = None
        # The branches of that step in which the shadow had to go on with a value of its own.
        self._strayed: set[str] = set()
        # The steps of the sampler that each has begun.
        self._sampled: tuple[set[At], set[At]] = set(), set()
        self._common = sites.keys() & shadow.sites().keys()
        self.refused: set[str] = set()

    def __enter__(self) -> Self:
        self._attached.enter_context(self._led)
        self._attached.enter_context(self._shadowed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()
        if self._following is not None:
            self._following.leave()

    def describe(self) -> dict[str, str]:
        """The leader's identity, and what is exchanged."""
        return self._leader.describe() | {"exchanged": "; ".join(exchange.name for exchange in self._exchanges)}

    def sites(self) -> Mapping[str, Site]:
        """The leader's sites; they show what it goes on with."""
        return self._leader.sites()

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session of both: the leader's passes; each one's end is that of the shadow's same step too."""
        self._table = self._checkpoint.family.table(self._checkpoint.geometry, scenario)
        self._sampled = set(), set()
        order = order_of(scenario, self._checkpoint)
        self._following = _Following(self._shadow.session(scenario), order, self._begin_shadow)
        leading = self._leader.session(scenario)
        announced, step = next(leading, None), None
        while announced is not None:
            unit, at = announced
            if at.at(unit) != step:
                step = at.at(unit)
                self._shown.clear()
                self._made.clear()
                self._strayed.clear()
                self._sample(0, step)
            self._led.begin(unit, at)
            yield unit, at
            announced = next(leading, None)
            if announced is None or announced[1].at(announced[0]) != step:
                self._following.finish(step)
        self._following.finish(None)

    def _begin_shadow(self, unit: int, at: Pass) -> None:
        self._sample(1, at.at(unit))
        self._shadowed.begin(unit, at)

    def _sample(self, side: int, step: At) -> None:
        if step.phase in self._table.sampling:
            self._sampled[side].add(step)

    def _is_exchanged(self, key: Key) -> bool:
        """Whether the value at `key` is the shadow's, which must have come to the pass by now; if it is refused, not.

        After other steps of the sampler the shadow goes on with a latent of its own: what it makes of that says nothing
        of the part, only of the steps, and is taken with these alone.
        """
        if not exchanged(key, self._exchanges, self._table):
            return False
        if not self._table.takes_final(key) or self._same_steps(key.unit):
            return True
        if carried(key, self._exchanges, self._table):
            return True
        self.refused.add(key.site)
        return False

    def _same_steps(self, unit: int) -> bool:
        """Whether both have begun the same steps of a unit."""
        led, followed = ({at for at in steps if at.unit == unit} for steps in self._sampled)
        return led == followed

    def _lead(self, seen: Observation) -> Tensor | None:
        assert self._following is not None, "a site showed outside of a session"
        key = seen.key
        if self._table.takes_final(key):
            self._following.come_to(key.at)
        if not self._is_exchanged(key):
            # The implementation may reuse its tensor.
            self._shown[key] = seen.tensor.detach().clone()
            return None
        if self._table.is_mask(key.site) and (carriers := self._carriers(key)):
            # It may be shown for all layers at once, long before a shadow comes to the last of them. It acts through
            # what carries its part, and is exchanged with that.
            if not any(exchanged(carrier, self._exchanges, self._table) for carrier in carriers):
                self.refused.add(key.site)
            return None
        return self._from_shadow(key)

    def _carriers(self, key: Key) -> list[Key]:
        """The observations of the same pass and block that the part of `key` acts through."""
        part = self._table.part_of(key)
        rows = (row for row in self._table.rows if part in row.carries and key.phase in row.phases)
        return [key._replace(site=row.name) for row in rows if block_of(row.name) == block_of(key.site)]

    def _from_shadow(self, key: Key) -> Tensor | None:
        """What the shadow makes of the leader's values at `key`; None where it does not come there."""
        assert self._following is not None
        shared, made = True, None
        if key.site in self._common:
            self._wanted = key
            shared = self._following.reach(key.at, lambda: key in self._made)
            self._wanted = None
            made = self._made.get(key)
        if shared and (made is None or key.site in self._fixed):
            self.refused.add(key.site)
        return made

    def _follow(self, seen: Observation) -> Tensor | None:
        assert self._following is not None, "a site showed outside of a session"
        key = seen.key
        if self._is_exchanged(key):
            strayed = key.branch in self._strayed
            if not strayed:
                self._made[key] = seen.tensor.detach().clone()
            if key == self._wanted:
                self._following.pause(starved=strayed)
            return None
        while self._is_awaited(key):
            if self._is_of_another_branch(key):
                # A leader that evaluates both in one call shows this one's value later: none can wait for the other.
                self._strayed.add(key.branch)
                return None
            self._following.pause(starved=True)
        return self._shown.get(key)

    def _is_awaited(self, key: Key) -> bool:
        """Whether the leader, which waits for the shadow, has yet to show the value at `key` in this very step.

        Inputs and masks may be shown at any time before they count: there the shadow goes on with its own.
        """
        if self._wanted is None or key.at != self._wanted.at:
            return False
        if self._table.kind(key.site) in (Kind.INPUT, Kind.MASK):
            return False
        if self._table.kind(self._wanted.site) in (Kind.CACHE, Kind.MASK):
            # A cache is shown at the end of a pass: what the leader has not shown by then it leaves out.
            return False
        reads = self._table.reads(self._wanted.site)
        if reads and all(map(is_input, reads)):
            # What is made of inputs alone, such as the angles of a rotation, may be shown before all that is computed.
            return False
        return key.site in self._common and key not in self._shown

    def _is_of_another_branch(self, key: Key) -> bool:
        """Whether what the leader waits for belongs to another branch of the step."""
        wanted = "" if self._wanted is None else self._wanted.branch
        return bool(wanted and key.branch) and key.branch != wanted


class _Following:
    """The shadow's session, run as far as the leader needs it."""

    def __init__(self, passes: Iterator[tuple[int, Pass]], order: Order, begin: Callable[[int, Pass], None]) -> None:
        self._passes = passes
        self._order = order
        self._begin = begin
        # The step whose pass is announced or in work; None at the end.
        self._at: At | None = None
        self._starved = False
        self._running = greenlet(self._run)
        self._running.switch()

    def pause(self, *, starved: bool = False) -> None:
        """Leave the session where it is; to be called from within it. `starved`: for a value that it does not get."""
        assert self._running.parent is not None, "the session in work was left by another one"
        self._starved |= starved
        self._running.parent.switch()

    def come_to(self, at: At) -> None:
        """Run the steps before `at`."""
        while self._at is not None and self._order.rank(self._at) < self._order.rank(at):
            self._running.switch()

    def reach(self, at: At, there: Callable[[], bool]) -> bool:
        """Run the steps before `at`, and that one until `there`, or to its end; whether there is such a step."""
        shared, self._starved = False, False
        while self._is_due(at) and not there():
            shared = self._at == at
            self._running.switch()
            if self._starved:
                break
        return shared or there()

    def finish(self, at: At | None) -> None:
        """Run to the end of step `at`; without one to the end."""
        while self._is_due(at):
            self._running.switch()

    def _is_due(self, at: At | None) -> bool:
        """Whether the session is not yet past step `at`; without one, not yet at its end."""
        if self._at is None:
            return False
        return at is None or self._order.rank(self._at) <= self._order.rank(at)

    def leave(self) -> None:
        """Give up a session that is in the middle of a pass."""
        if not self._running.dead:
            # What it has set for its own passes it restores now: not to what it is outside of them.
            with torch.set_grad_enabled(torch.is_grad_enabled()):
                self._running.throw()

    def _run(self) -> None:
        for unit, at in self._passes:
            self._at = at.at(unit)
            self._begin(unit, at)
            self.pause()
        self._at = None
