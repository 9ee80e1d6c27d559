"""A call that stops where it is asked to, so that a loop inside code that is not ours can be taken pass by pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue
from threading import Thread

import torch

from waypoint_parity.harness.run.adapter import Pass


class PausedCall:
    """Runs `call` in a thread of its own that never runs at the same time as the caller's: the two take turns.

    `call` stops wherever something inside it calls `pause`, and goes on when the caller comes back for the next pass.
    `surroundings` is entered whenever the call runs, for settings of the whole process that the caller must not see.
    """

    def __init__(self, call: Callable[[], None], surroundings: Callable[[], AbstractContextManager[object]]) -> None:
        self._call = call
        self._surroundings = surroundings
        self._paused: SimpleQueue[Pass | None] = SimpleQueue()
        self._resumed: SimpleQueue[bool] = SimpleQueue()
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
                self._resumed.put(False)
                thread.join()
        if self._error is not None:
            raise self._error

    def pause(self, at: Pass) -> None:
        """From within the call: wait until the caller asks for what follows `at`."""
        self._paused.put(at)
        self._wait()

    def _resume(self) -> Pass | None:
        with self._surroundings():
            self._resumed.put(True)
            return self._paused.get()

    def _wait(self) -> None:
        if not self._resumed.get():
            raise _Abandoned

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
            self._paused.put(None)


class _Abandoned(BaseException):
    """Ends a call whose caller no longer comes back; no handler for errors is to catch it."""
