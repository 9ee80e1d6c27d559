"""A call that stops where it is asked to, so that a loop inside code that is not ours can be taken pass by pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import overrides
from torch.utils import _python_dispatch as dispatch

from waypoint_parity.harness.run.adapter import Pass

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _Turn:
    """What the call goes on with: what it asked for, or why there is none; and the modes that follow it."""

    made: Any
    error: Exception | None
    modes: "_Modes"


class PausedCall:
    """Runs `call` in a thread of its own that never runs at the same time as the caller's: the two take turns.

    `call` stops wherever something inside it calls `pause`, and goes on when the caller comes back for the next pass.
    The modes of torch that are on where the caller waits are on in the call. `surroundings` is entered whenever the
    call runs, for settings of the whole process that the caller must not see.

    A thread and no greenlet: an error in torch's own code walks up the stack, and a greenlet's ends in that of others.
    """

    def __init__(self, call: Callable[[], None], surroundings: Callable[[], AbstractContextManager[object]]) -> None:
        self._call = call
        self._surroundings = surroundings
        self._asked: SimpleQueue[Pass | Callable[[], Any] | None] = SimpleQueue()
        self._turns: SimpleQueue[_Turn | None] = SimpleQueue()
        self._adopted = 0, 0
        self._error: BaseException | None = None
        # Whether autograd records is a property of the thread.
        self._inference = torch.is_inference_mode_enabled()

    def passes(self) -> Iterator[Pass]:
        """Every pass at which the call pauses, until it ends. Raises what the call raised."""
        thread = Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while (at := self._resume()) is not None:
                yield at
        finally:
            if thread.is_alive():
                self._turns.put(None)
                thread.join()
        if self._error is not None:
            raise self._error

    def pause(self, at: Pass) -> None:
        """From within the call: wait until the caller asks for what follows `at`."""
        self._ask(at)

    def outside(self, work: Callable[[], _Made]) -> _Made:
        """From within the call: what `work` returns where the caller runs it, in its own thread.

        What may leave a session in the middle, as an exchange does, can only do so there.
        """
        made: _Made = self._ask(work)
        return made

    def _resume(self) -> Pass | None:
        """Run the call to its next pass; None where it has ended."""
        made, error = None, None
        while True:
            with self._surroundings():
                self._turns.put(_Turn(made, error, _Modes.here()))
                asked = self._asked.get()
            if asked is None or isinstance(asked, Pass):
                return asked
            try:
                made, error = asked(), None
            except Exception as raised:
                made, error = None, raised

    def _ask(self, what: Pass | Callable[[], Any]) -> Any:
        own = _Modes.taken().without(self._adopted)
        self._asked.put(what)
        turn = self._wait()
        own.put()
        if turn.error is not None:
            raise turn.error
        return turn.made

    def _wait(self) -> _Turn:
        turn = self._turns.get()
        if turn is None:
            raise _Abandoned
        turn.modes.put()
        self._adopted = len(turn.modes.function), len(turn.modes.dispatch)
        return turn

    def _run(self) -> None:
        try:
            self._wait()
            with torch.inference_mode(self._inference):
                self._call()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._asked.put(None)


@dataclass(frozen=True)
class _Modes:
    """Modes of torch that see operations and calls, which belong to a thread; the outermost first."""

    function: tuple[Any, ...]
    dispatch: tuple[Any, ...]

    @classmethod
    def here(cls) -> "_Modes":
        """Those of the thread in work."""
        return cls(
            tuple(overrides._get_current_function_mode_stack()),
            tuple(dispatch._get_current_dispatch_mode_stack()),
        )

    @classmethod
    def taken(cls) -> "_Modes":
        """Those of the thread in work, which has none afterwards."""
        here = cls.here()
        for _ in here.function:
            overrides._pop_mode()
        for _ in here.dispatch:
            dispatch._pop_mode()
        return here

    def without(self, outer: tuple[int, int]) -> "_Modes":
        """The same without so many outer ones of each kind."""
        return _Modes(self.function[outer[0] :], self.dispatch[outer[1] :])

    def put(self) -> None:
        """Have them in the thread in work too, within those that it has."""
        for mode in self.function:
            overrides._push_mode(mode)
        for mode in self.dispatch:
            dispatch._push_mode(mode)


class _Abandoned(BaseException):
    """Ends a call whose caller no longer comes back; no handler for errors is to catch it."""
