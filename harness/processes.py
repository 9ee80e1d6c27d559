"""Processes: how many compute at once, what they keep of memory, their workers, and how they end when asked to."""

import atexit
import ctypes
import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, ClassVar, TextIO, cast

# Seconds that an implementation in a process of its own may be silent.
SIDE_TIMEOUT = 600.0


def available_cores() -> int:
    """The cores that this process may use, where the system tells; else all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Torch computes on so many threads until the context ends; a number of the whole process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Parameters of glibc's mallopt (malloc.h): from which size on free memory is given back, how many blocks may be mapped
# from the system one by one, in how many arenas threads allocate.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = (1 << 31) - 1


def keep_memory() -> None:
    """Have the C library keep what is freed, as long as this process lives; for whoever owns the process to call.

    glibc returns every large block to the system when it is freed, and the system hands it out again page by page,
    zeroed. Kept, a frame of the small world is decoded in 0.15 s instead of 0.22 (glibc 2.36, one thread). Another C
    library is left as it is.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
            mallopt(parameter, value)


def end_with_the_parent() -> None:
    """End this process when its parent does, and not before: a worker that waits for work would not notice that.

    A terminal sends Ctrl-C to every process of a command; only the parent acts on it, and ends its workers.
    """
    if threading.current_thread() is threading.main_thread():
        # A handler, and not SIG_IGN, which what an engine starts would inherit.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        _let_interrupts(signal.SIG_UNBLOCK)
    steady_streams()
    threading.Thread(target=_exit_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _exit_after(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        # Not sys.exit, which would end this thread.
        os._exit(1)


def _let_interrupts(how: int) -> None:
    """Block or unblock SIGINT for this thread, and for what it starts meanwhile."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(how, {signal.SIGINT})


class _Known(SpawnProcess):
    """A process that takes no SIGINT before end_with_the_parent, and that is known as soon as it runs."""

    def start(self) -> None:
        with _signals_held():
            _let_interrupts(signal.SIG_BLOCK)
            try:
                super().start()
            finally:
                _let_interrupts(signal.SIG_UNBLOCK)


class _Spawning(SpawnContext):
    """Spawns: a fork would inherit the threads of torch, without those that run them. Knows what it has spawned."""

    def __init__(self) -> None:
        super().__init__()
        self._spawned: list[_Known] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Known:  # type: ignore[override]  # noqa: N802
        process = _Known(*args, **kwargs)
        self._spawned.append(process)
        return process

    def kill(self) -> None:
        """Kill those that run, and wait until they are gone."""
        running = [process for process in self._spawned if process.pid is not None]
        for process in running:
            process.kill()
        for process in running:
            process.join()


@contextmanager
def worker_pool(workers: int, begin: Callable[..., None], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, each of which calls `begin` first; that calls end_with_the_parent.

    Where the context is left by an error, they are killed: nobody wants any more what they would do for minutes.
    """
    spawning = _Spawning()
    pool = ProcessPoolExecutor(workers, spawning, initializer=begin, initargs=arguments)
    try:
        yield pool
    except BaseException:
        with _signals_held():
            pool.shutdown(wait=False, cancel_futures=True)
            spawning.kill()
        raise
    pool.shutdown()


class Interrupted(KeyboardInterrupt):
    """The process was asked to end, by Ctrl-C or by another process. No engine raises it."""

    def __init__(self, number: int) -> None:
        """`number`: of the signal."""
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell has it of a process that a signal ended."""
        return 128 + self.number


class _Asked:
    """What this process knows of being asked to end."""

    SIGNALS: ClassVar = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Seconds from then until it is ended, whatever it is at.
    GRACE = 1.0

    def __init__(self) -> None:
        self.by: int | None = None
        # Acted on: what is left to do may take its time.
        self.taken = threading.Event()
        self.held = 0
        self.waiting = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.by is not None:
            if self.taken.is_set():
                _end_now(number)
            return
        self.by = number
        if self.held:
            self.waiting = True
        else:
            raise Interrupted(number)

    def release(self) -> None:
        self.held -= 1
        if not self.held and self.waiting and self.by is not None:
            self.waiting = False
            raise Interrupted(self.by)

    def leave(self) -> None:
        """End without tearing down what the process has loaded: torch takes a second or two for that."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        if self.by is not None:
            os._exit(Interrupted(self.by).exit_code)

    def watch(self, told: int) -> None:
        """End the process where it has not ended by itself; `told`: where the C library writes every signal."""
        while heard := os.read(told, 1):
            if heard[0] in self.SIGNALS:
                self._insist(heard[0])
        os.close(told)

    def _insist(self, number: int) -> None:
        end = time.monotonic() + self.GRACE
        while time.monotonic() < end:
            if self.taken.wait(self.GRACE / 10):
                return
            # Another thread took the signal, and the main thread waits for a lock without having seen it.
            if self.by is None and hasattr(signal, "pthread_kill"):
                signal.pthread_kill(cast(int, threading.main_thread().ident), number)
        _end_now(number)


_asked = _Asked()


@contextmanager
def interruptible() -> Iterator[None]:
    """While open, SIGINT, SIGTERM and SIGHUP raise Interrupted in the main thread; for whoever owns the process.

    Where that does not end the process, because it computes without coming back to Python or because an engine catches
    everything, it is ended with its workers shortly after. A signal that this process was begun to ignore, as a script
    begins its background jobs, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _Asked.SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    threading.Thread(target=_asked.watch, args=(told,), daemon=True).start()
    previous = signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    for number in heeded:
        signal.signal(number, _asked.handle)
    # First to be registered, so last to be called.
    atexit.register(_asked.leave)
    try:
        yield
    finally:
        # Asked to end, it goes on being watched.
        if _asked.by is None or _asked.taken.is_set():
            atexit.unregister(_asked.leave)
            for number in heeded:
                signal.signal(number, before[number])
            signal.set_wakeup_fd(previous)
            os.close(telling)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Left quietly when the process is asked to end; what follows may take its time."""
    try:
        yield
    except Interrupted:
        _asked.taken.set()


@contextmanager
def _signals_held() -> Iterator[None]:
    """What asks to end meanwhile is acted on at the end. Signals come to the main thread: others hold nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.held += 1
    try:
        yield
    finally:
        _asked.release()


def _end_now(number: int) -> None:
    """End this process and its workers."""
    with suppress(Exception):
        for process in multiprocessing.active_children():
            process.kill()
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(Interrupted(number).exit_code)


def _forget_signals() -> None:
    """What is forked by an engine is none of this: its signals would be told to its parent."""
    global _asked
    if any(signal.getsignal(number) == _asked.handle for number in _Asked.SIGNALS):
        signal.set_wakeup_fd(-1)
        for number in _Asked.SIGNALS:
            if signal.getsignal(number) == _asked.handle:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _asked = _Asked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_signals)


class _Output(io.FileIO):
    """A standard stream. Where nobody reads it any more, what is written goes nowhere; that is no error.

    What else goes wrong, as on a full disk, is kept: `failure`.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = self.failure or error
            return memoryview(data).nbytes


def steady_streams() -> None:
    """Let standard output and error take whatever is printed; for as long as this process lives.

    A closed pipe takes it in silence, and a character that the terminal's encoding does not have is spelt out.
    """
    with suppress(OSError):
        # Else the next file that is opened would be taken for the stream.
        while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(lowest, True)
        os.close(lowest)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _steady(number, "utf-8", line_buffering=False, write_through=False))
        elif isinstance(stream, io.TextIOWrapper) and type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:
            with suppress(OSError, ValueError):
                stream.flush()
                how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
                setattr(sys, name, _steady(stream.fileno(), stream.encoding, **how))


def _steady(number: int, encoding: str, *, line_buffering: bool, write_through: bool) -> TextIO:
    raw = _Output(number, "w", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
        write_through=write_through,
    )
    stream.mode = "w"  # type: ignore[misc]
    return stream


def output_failure() -> OSError | None:
    """Why standard output could not be written; None where it could, and where nobody reads it any more."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Output) else None
