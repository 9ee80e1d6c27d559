"""A player in a process of its own, seen from the one that asks it: in one process, two would wait for each other."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from waypoint_parity.harness.families.waypoint.play.player import PlayerError, Request, Role, perform

# Seconds for a process to end by itself, once nobody asks it any more.
_GRACE = 2.0


class PlayerProcess:
    """A player that is asked one thing at a time; every answer has to be fetched.

    What crosses is pickled here and goes as bytes: a tensor that is given to a connection as such would be shared, and
    hold a file open on both sides.
    """

    def __init__(self, role: Role, cores: frozenset[int] = frozenset()) -> None:
        # Spawned: a fork would inherit the threads of torch, without those that run them.
        context = multiprocessing.get_context("spawn")
        self.name = role.name
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=perform, args=(role, cores, self._theirs))

    def __enter__(self) -> Self:
        """Start it, from the main thread; it loads, and its first answer says whether it could."""
        with _interrupts_ignored():
            self._process.start()
        # The process holds the only other end now: when it is gone, so is that.
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss()
        self._process.join(_GRACE)
        # It may be in the middle of loading, or of a frame that nobody will see.
        self._process.kill()
        self._process.join()

    def dismiss(self) -> None:
        """Let it end; leaving its context waits until it has."""
        self._connection.close()

    def ask(self, request: Request[Any]) -> None:
        """Ask for something. Where the process is gone, the answer says so."""
        with suppress(ConnectionError):
            self._connection.send_bytes(pickle.dumps(request))

    def answer(self) -> Any:
        """Wait for the answer: what the request returned, or the UserError or PlayerError that came of it."""
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            self._process.join(_GRACE)
            return PlayerError(f"{self.name}: its process is gone, with exit code {self._process.exitcode}")


def shares_of_cores(players: int, threads: int) -> list[frozenset[int]]:
    """Cores of its own for each of so many players; none where that would be fewer than its `threads`."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    share = len(cores) // players
    if share < threads:
        return [frozenset()] * players
    return [frozenset(cores[player * share : (player + 1) * share]) for player in range(players)]


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    # A terminal sends Ctrl-C to every process of a command, but only this one is to act on it. What is started
    # meanwhile ignores it from its first instruction on.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
