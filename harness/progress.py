"""Progress: a bar on a terminal; elsewhere a line a minute on standard error."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm

# Seconds between two lines.
MINUTE = 60.0
# Who is told where this process is, the innermost last; and by which process: one that was forked has its own.
_told: list[tuple[int, Callable[[str], None]]] = []


class Named(Protocol):
    """What a bar can show."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


Item = TypeVar("Item", bound=Named)


def moved(where: str) -> None:
    """Tell where a session is, such as "unit 3, denoise step 2". Costs nothing where nobody is told."""
    if _told and _told[-1][0] == os.getpid():
        _told[-1][1](where)


def progress(items: Sequence[Item]) -> Iterator[Item]:
    """`items`, each shown while it is in work."""
    with counter(len(items)) as announce:
        for item in items:
            with working(item.name):
                yield item
            announce(item.name)


def silent(name: str) -> None:
    """Takes the names of runs where nobody watches."""


@contextmanager
def counter(total: int | None = None, unit: str = "run") -> Iterator[Callable[[str], None]]:
    """Takes the names of runs one after another, of `total` where that is known."""
    with tqdm(unit=unit, total=total, disable=None) as bar:
        done, line = 0, _Line()

        def announce(name: str) -> None:
            nonlocal done
            done += 1
            bar.set_postfix_str(name)
            bar.update()

        def show(where: str) -> None:
            if bar.disable:
                line.tell(f"{done}{'' if total is None else f' of {total}'} {unit}s, {where}")
            else:
                bar.set_postfix_str(where, refresh=False)
                # Draws where there is something to see, and not more often than a bar is drawn.
                bar.update(0)

        with _telling(show):
            yield announce


@contextmanager
def working(name: str) -> Iterator[None]:
    """While open, what `moved` tells belongs to this piece of work."""
    pid = os.getpid()
    outer = _told[-1][1] if _told and _told[-1][0] == pid else _Line().tell
    with _telling(lambda where: outer(f"{name}: {where}")):
        yield


@contextmanager
def _telling(show: Callable[[str], None]) -> Iterator[None]:
    entry = os.getpid(), show
    _told.append(entry)
    try:
        yield
    finally:
        _told.remove(entry)


class _Line:
    """Writes a line a minute, the first one after a minute."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def tell(self, text: str) -> None:
        """Write it, unless the last line was written within the minute."""
        now = time.monotonic()
        if now - self._last >= MINUTE:
            self._last = now
            sys.stderr.write(f"{now - self._begun:.0f} s: {text}\n")
            sys.stderr.flush()
