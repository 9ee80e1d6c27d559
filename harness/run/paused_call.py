"""A call that stops where it is asked to, so that a loop inside code that is not ours can be taken pass by pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from greenlet import getcurrent, greenlet

from waypoint_parity.harness.run.adapter import Pass


class PausedCall:
    """Runs `call` in a greenlet of its own: it and the caller take turns, in one thread.

    One thread, because what follows an implementation (the modes of torch, a session that an exchange leaves in the
    middle of a pass) belongs to a thread.

    `call` stops wherever something inside it calls `pause`, and goes on when the caller comes back for the next pass.
    `surroundings` is entered whenever the call runs, for settings of the whole process that the caller must not see.
    """

    def __init__(self, call: Callable[[], None], surroundings: Callable[[], AbstractContextManager[object]]) -> None:
        self._surroundings = surroundings
        self._running = greenlet(self._run)
        self._call = call
        self._paused: Pass | None = None

    def passes(self) -> Iterator[Pass]:
        """Every pass at which the call pauses, until it ends. Raises what the call raised."""
        try:
            while (at := self._resume()) is not None:
                yield at
        finally:
            if self._running:
                self._running.parent = getcurrent()
                self._apart(self._running.throw)

    def pause(self, at: Pass) -> None:
        """From within the call: wait until the caller asks for what follows `at`."""
        assert self._running.parent is not None, "only a call that runs can pause"
        self._paused = at
        gradients = torch.is_grad_enabled()
        self._running.parent.switch()
        torch.set_grad_enabled(gradients)

    def _resume(self) -> Pass | None:
        """Run the call to its next pass; None where it has ended."""
        self._paused = None
        with self._surroundings():
            # What is left from within the call comes back here, when the caller's own greenlet is taken up again.
            while self._paused is None and not self._running.dead:
                self._running.parent = getcurrent()
                self._apart(self._running.switch)
        return self._paused

    def _apart(self, turn: Callable[[], object]) -> None:
        """Whether autograd records is a property of the thread: what the call sets is not the caller's."""
        gradients = torch.is_grad_enabled()
        try:
            turn()
        finally:
            torch.set_grad_enabled(gradients)

    def _run(self) -> None:
        self._call()
