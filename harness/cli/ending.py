"""How the program ends: when it is asked to, and where what it prints cannot be written."""

import ctypes
import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple, ParamSpec

from waypoint_parity.harness.cli.outcome import HOLDS, OUR_FAULT, UNUSABLE
from waypoint_parity.harness.errors import EngineError, UserError
from waypoint_parity.harness.processes import Interrupted, interruptible, output_failure, steady_streams

Given = ParamSpec("Given")


def as_a_program(command: Callable[Given, int]) -> Callable[Given, int]:
    """`command` with the signals and the standard streams of this process its own; it returns an exit code."""

    @functools.wraps(command)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> int:
        steady_streams()
        try:
            with interruptible():
                return _written(command(*args, **kwargs))
        except Interrupted as asked:
            print("interrupted", file=sys.stderr)
            return asked.exit_code
        except SystemExit as end:
            # Of a call that asks for help, or that is wrong.
            if code := _written(0):
                return code
            raise end

    return run


def _written(code: int) -> int:
    """`code`; where nothing could be printed, that is told, and no code says that all is well."""
    failure = output_failure()
    if failure is None:
        return code
    error = UserError(
        "standard output: cannot be written",
        found=failure.strerror or str(failure),
        expected="a place with enough room",
        do="free space, or write to another place",
    )
    print(f"error: {error}", file=sys.stderr)
    return code or UNUSABLE


# Of prctl (linux/prctl.h): the signal that a process gets when its parent is gone.
_PARENT_DEATH_SIGNAL = 1
# Seconds that a process may take to end, once its exit code is known.
_PATIENCE = 10


def watched(program: Callable[[], int]) -> int:
    """What `program` returns, run in a child: code of an engine may end the process without a word, with exit code 0.

    The child has the terminal and the streams. Signals that this process alone is sent are handed on to it. To be
    called before there are threads; where processes cannot be forked, `program` runs here.
    """
    if not (hasattr(os, "fork") and hasattr(signal, "sigtimedwait")):
        return program()
    heard = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # Asked to end before the program heeds it, it ends without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _telling(program, telling)
    os.close(telling)
    child_ended = _waited(child, heard, told)
    status, code = child_ended.status, os.read(told, 1)
    if code and child_ended.late:
        return code[0]
    if code and os.WIFEXITED(status):
        return os.WEXITSTATUS(status) or code[0]
    if child_ended.asked is not None and os.WIFSIGNALED(status):
        return 128 + child_ended.asked
    return os.WEXITSTATUS(status) if _is_told(status) else _ended_without_a_word(status)


def _telling(program: Callable[[], int], telling: int) -> int:
    """What `program` returns or leaves with, told to who waits for it."""
    try:
        code = program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else HOLDS if end.code is None else OUR_FAULT
        os.write(telling, bytes([code]))
        raise
    os.write(telling, bytes([code]))
    return code


class _Ended(NamedTuple):
    """How the child ended. `asked`: by which signal it was asked to. `late`: it was killed, its exit code known."""

    status: int
    asked: int | None
    late: bool


def _waited(child: int, heard: set[signal.Signals], told: int) -> _Ended:
    """Wait for the child, but not for threads of an engine that never end.

    What a terminal sends, all processes have got; what this one alone is sent is handed on.
    """
    waiting, asked = _PATIENCE, None
    while True:
        of = signal.sigtimedwait(heard, 1)
        if of is not None and of.si_signo != signal.SIGCHLD:
            asked = of.si_signo
            if of.si_code <= 0:
                os.kill(child, asked)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _Ended(status, asked, late=waiting <= 0)
        if of is None and select.select([told], [], [], 0)[0]:
            waiting -= 1
            if waiting == 0:
                os.kill(child, signal.SIGKILL)


def _is_told(status: int) -> bool:
    """Whether an exit code says by itself that all is not well."""
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) != HOLDS


def _ended_without_a_word(status: int) -> int:
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "exit code 0, before there was a verdict"
    error = EngineError(
        "the process ended without a word",
        found=how,
        expected="a command that runs to its end",
        do="look for what ends it: code of an engine that leaves the process, a crash in C, too little memory",
    )
    print(f"error: {error}", file=sys.stderr)
    return OUR_FAULT
