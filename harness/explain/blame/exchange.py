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

from waypoint_parity.harness.explain.blame.exchanges import Exchange, carried, exchanged
from waypoint_parity.harness.explain.blame.pace import PHASES
from waypoint_parity.harness.explain.blame.parts import is_handed_on
from waypoint_parity.harness.run.adapter import Adapter, Controls, Pass, Prompt, Site
from waypoint_parity.harness.run.keys import Key, block_of, is_input, is_mask, ring_part
from waypoint_parity.harness.run.taps import Patcher, is_patchable


class Exchanged:
    """An adapter that drives `leader`, with the parts of `exchanges` computed by `shadow`, while its context is open.

    `refused`: the sites of those parts at which one of the two has no value to give or to take.
    """

    def __init__(self, leader: Adapter, shadow: Adapter, exchanges: Iterable[Exchange]) -> None:
        self._leader, self._shadow = leader, shadow
        self._exchanges = tuple(exchanges)
        sites = leader.sites()
        self._led = Patcher(sites, self._lead)
        # Masks act through what carries them (harness.explain.blame.parts).
        self._fixed = {name for name, site in sites.items() if not is_patchable(site) and not is_mask(name)}
        self._shadowed = Patcher(shadow.sites(), self._follow)
        self._attached = ExitStack()
        self._following: _Following | None = None
        self._frame = 0
        # Of the pass in work: what the leader has shown, and what the shadow has made where parts are exchanged.
        self._shown: dict[Key, Tensor] = {}
        self._made: dict[Key, Tensor] = {}
        self._wanted: Key | None = None
        # How many denoise steps of the frame in work each has begun.
        self._steps_led = self._steps_followed = 0
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

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session of both."""
        self._frame = 0
        return self._both(self._leader.start(prompt, sigmas), self._shadow.start(prompt, sigmas))

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give both a frame."""
        return self._both(self._leader.append_image(image), self._shadow.append_image(image))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Have both generate a frame."""
        yield from self._both(self._leader.generate(noise, controls), self._shadow.generate(noise, controls))
        self._frame += 1

    def _both(self, leading: Iterator[Pass], following: Iterator[Pass]) -> Iterator[Pass]:
        """The passes of the leader; each one's end is that of the shadow's same pass too."""
        self._steps_led = self._steps_followed = 0
        self._following = _Following(following, self._begin_shadow)
        at = next(leading, None)
        while at is not None:
            self._shown.clear()
            self._made.clear()
            self._steps_led += at.phase == "denoise"
            self._led.begin(self._frame, at)
            yield at
            upcoming = next(leading, None)
            self._following.finish(at)
            at = upcoming
        self._following.finish(None)

    def _begin_shadow(self, at: Pass) -> None:
        self._steps_followed += at.phase == "denoise"
        self._shadowed.begin(self._frame, at)

    def _is_exchanged(self, key: Key) -> bool:
        """Whether the value at `key` is the shadow's, which must have come to the pass by now; if it is refused, not.

        After other denoise steps the shadow goes on with a latent of its own: what it makes of that says nothing of the
        part, only of the steps, and is taken with these alone.
        """
        if not exchanged(key, self._exchanges):
            return False
        if self._steps_led == self._steps_followed or not is_handed_on(key) or carried(key, self._exchanges):
            return True
        self.refused.add(key.site)
        return False

    def _lead(self, key: Key, value: Tensor) -> Tensor | None:
        assert self._following is not None, "a site showed outside of a session"
        if is_handed_on(key):
            self._following.come_to(Pass(key.phase, key.step))
        if not self._is_exchanged(key):
            # The implementation may reuse its tensor.
            self._shown[key] = value.detach().clone()
            return None
        if is_mask(key.site):
            # It may be shown for all layers at once, long before a shadow comes to the last of them. It acts through
            # the attention, and is exchanged with that.
            attention = key._replace(site=f"transformer.blocks.{block_of(key.site)}.attn")
            if not exchanged(attention, self._exchanges):
                self.refused.add(key.site)
            return None
        return self._from_shadow(key)

    def _from_shadow(self, key: Key) -> Tensor | None:
        """What the shadow makes of the leader's values at `key`; None where it does not come there."""
        assert self._following is not None
        shared, made = True, None
        if key.site in self._common:
            self._wanted = key
            shared = self._following.reach(Pass(key.phase, key.step), lambda: key in self._made)
            self._wanted = None
            made = self._made.get(key)
        if shared and (made is None or key.site in self._fixed):
            self.refused.add(key.site)
        return made

    def _follow(self, key: Key, value: Tensor) -> Tensor | None:
        assert self._following is not None, "a site showed outside of a session"
        if self._is_exchanged(key):
            self._made[key] = value.detach().clone()
            if key == self._wanted:
                self._following.pause()
            return None
        while self._is_awaited(key):
            self._following.starve()
        return self._shown.get(key)

    def _is_awaited(self, key: Key) -> bool:
        """Whether the leader, which waits for the shadow, has yet to show the value at `key` in this very pass.

        Inputs and masks may be shown at any time before they count: there the shadow goes on with its own.
        """
        if self._wanted is None or key[:3] != self._wanted[:3] or is_input(key.site) or is_mask(key.site):
            return False
        if ring_part(self._wanted.site):
            # A ring is shown at the end of a pass: what the leader has not shown by then it leaves out.
            return False
        return key.site in self._common and key not in self._shown


class _Following:
    """The shadow's passes of one call of its adapter, run as far as the leader needs them."""

    def __init__(self, passes: Iterator[Pass], begin: Callable[[Pass], None]) -> None:
        self._passes = passes
        self._begin = begin
        self._at: Pass | None = None
        self._over = False
        self._starved = False
        self._running = greenlet(self._run)
        self._running.switch()

    def pause(self) -> None:
        """Leave the session where it is; to be called from within it."""
        assert self._running.parent is not None, "the session in work was left by another one"
        self._running.parent.switch()

    def starve(self) -> None:
        """Leave the session because it lacks a value that only the leader can give."""
        self._starved = True
        self.pause()

    def come_to(self, at: Pass) -> None:
        """Run the passes before `at`."""
        while not self._over and self._at is not None and _rank(self._at) < _rank(at):
            self._running.switch()

    def reach(self, at: Pass, there: Callable[[], bool]) -> bool:
        """Run the passes before `at`, and that one until `there`, or to its end; whether there is such a pass."""
        shared, self._starved = False, False
        while not self._over and self._at is not None and _rank(self._at) <= _rank(at) and not there():
            shared = _rank(self._at) == _rank(at)
            self._running.switch()
            if self._starved:
                break
        return shared or there()

    def finish(self, at: Pass | None) -> None:
        """Run to the end of pass `at`; without one to the end."""
        while not self._over and (at is None or self._at is None or _rank(self._at) <= _rank(at)):
            self._running.switch()

    def leave(self) -> None:
        """Give up a session that is in the middle of a pass."""
        if not self._running.dead:
            # What it has set for its own passes it restores now: not to what it is outside of them.
            with torch.set_grad_enabled(torch.is_grad_enabled()):
                self._running.throw()

    def _run(self) -> None:
        for at in self._passes:
            self._at = at
            self._begin(at)
            self.pause()
        self._over = True


def _rank(at: Pass) -> tuple[int, int]:
    return PHASES.index(at.phase), at.step
