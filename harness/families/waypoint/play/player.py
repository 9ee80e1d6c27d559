"""A player: one implementation in a session to be steered, and the life of the process that it has to itself."""

import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame
from waypoint_parity.harness.families.waypoint.scenario import Controls, Inputs
from waypoint_parity.harness.processes import computing_on, end_with_the_parent, keep_memory
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.taps import decoded_pictures
from waypoint_parity.harness.run.worker import exact_arithmetic

T = TypeVar("T")
# What a player is asked for, such as partial(Player.step, noise=noise, controls=controls).
Request = Callable[["Player"], T]


@dataclass(frozen=True)
class Role:
    """Which implementation plays, on what and how; by value, for another process."""

    name: str
    checkpoint: Checkpoint
    numerics: Numerics
    threads: int = 1


@dataclass(frozen=True)
class Shown:
    """One frame of a side: its pixels [height,width,3] uint8, and the seconds that it took."""

    pixels: Pixels
    seconds: float


class PlayerError(RuntimeError):
    """An implementation raised what is no mistake of the user's, or its process is gone."""


class Player:
    """One implementation in a session that somebody steers."""

    def __init__(self, role: Role) -> None:
        """Load it. Raises UserError where it cannot be, and where it has no site `frame`: there is nothing to see."""
        adapter = registry.load(role.name, role.checkpoint, role.numerics)
        if not isinstance(adapter, FrameByFrame):
            raise UserError(
                f"{role.name}: cannot be steered",
                found="an adapter that runs whole sessions only",
                expected="a FrameByFrame (harness/families/waypoint/adapter.py): start, append_image and generate",
                do="derive the adapter from it",
            )
        self._adapter = adapter
        if "frame" not in adapter.sites():
            raise UserError(
                f"{role.name}: shows no frames",
                found="an adapter without the site `frame`",
                expected="the decoded frame [360,640,3] uint8 as a site",
                do="map it in the adapter's sites()",
            )
        self._checkpoint = role.checkpoint
        self._attached = ExitStack()
        self._pictures: list[Pixels] = []

    def __enter__(self) -> Self:
        self._pictures = self._attached.enter_context(decoded_pictures(self._adapter, self._checkpoint.family))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()

    @exact_arithmetic()
    def start(self, scenario: Scenario) -> None:
        """Begin a session with the prompt, the schedule and, where there is one, the image of `scenario`."""
        given = Inputs(self._checkpoint.family.prepared(scenario, self._checkpoint.geometry))
        _exhaust(self._adapter.start(given.prompt, given.sigmas))
        if given.image is not None:
            _exhaust(self._adapter.append_image(given.image))

    @exact_arithmetic()
    def step(self, noise: Tensor, controls: Controls) -> Shown:
        """Generate a frame from `noise` [1,1,C,h*ph,w*pw]."""
        started = time.perf_counter()
        self._pictures.clear()
        _exhaust(self._adapter.generate(noise, controls))
        return Shown(self._pictures[-1], time.perf_counter() - started)


def perform(role: Role, cores: frozenset[int], connection: Connection) -> None:
    """The life of a player's process, on `cores` (wherever the system likes, if empty).

    It answers once without being asked, when it is loaded; then every request, until `connection` is closed. An answer
    is what the request returns, or the UserError or PlayerError that came of it.
    """
    end_with_the_parent()
    keep_memory()
    if cores:
        os.sched_setaffinity(0, cores)
    with suppress(EOFError, ConnectionError), computing_on(role.threads), ExitStack() as attached:
        player = _outcome(role, lambda: attached.enter_context(Player(role)))
        if isinstance(player, Exception):
            return connection.send_bytes(pickle.dumps(player))
        connection.send_bytes(pickle.dumps(None))
        while True:
            request: Request[Any] = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(_outcome(role, partial(request, player))))


def _outcome(role: Role, work: Callable[[], T]) -> T | UserError | PlayerError:
    try:
        return work()
    except UserError as error:
        return error
    except (Exception, SystemExit) as error:
        return PlayerError(f"{role.name} failed: {error!r}\n{traceback.format_exc()}")


def _exhaust(passes: Iterator[Pass]) -> None:
    for _ in passes:
        pass
