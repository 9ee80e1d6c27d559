import os
import signal
import time

import pytest

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.play.player import Player, PlayerError, Role
from waypoint_parity.harness.families.waypoint.play.process import PlayerProcess, shares_of_cores
from waypoint_parity.harness.run.adapter import Numerics


@pytest.fixture
def role(tiny: Checkpoint, fp32_on_cpu: Numerics) -> Role:
    return Role("eager", tiny, fp32_on_cpu)


def whereabouts(player: Player) -> tuple[int, set[int]]:
    return os.getpid(), os.sched_getaffinity(0)


def killed(player: Player) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_work(player: Player) -> None:
    time.sleep(600)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_it_is_asked_for_is_done_in_another_process_on_its_own_cores(role: Role) -> None:
    cores = frozenset([min(os.sched_getaffinity(0))])
    with PlayerProcess(role, cores) as player:
        assert player.answer() is None
        player.ask(whereabouts)
        process, on = player.answer()
        assert process != os.getpid()
        assert on == cores
        # What a terminal sends to all.
        os.kill(process, signal.SIGINT)
        player.ask(whereabouts)
        assert player.answer() == (process, cores)
    assert not is_alive(process)


def test_one_that_dies_is_an_error_and_no_wait(role: Role) -> None:
    with PlayerProcess(role) as player:
        assert player.answer() is None
        for _ in range(2):
            player.ask(killed)
            answer = player.answer()
            assert isinstance(answer, PlayerError)
            assert str(answer) == "eager: its process is gone, with exit code -9"


def test_one_that_is_at_work_is_not_waited_for(role: Role) -> None:
    with PlayerProcess(role) as player:
        assert player.answer() is None
        player.ask(whereabouts)
        process = player.answer()[0]
        player.ask(at_work)
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 30
    assert not is_alive(process)


def test_players_share_the_cores() -> None:
    cores = os.sched_getaffinity(0)
    one, other = shares_of_cores(2, 1)
    assert one.isdisjoint(other)
    assert one | other <= cores
    assert len(one) == len(other) == len(cores) // 2
    assert shares_of_cores(2, len(cores)) == [frozenset(), frozenset()]
