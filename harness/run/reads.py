"""The files that are opened to be read while the code of an adapter may run, by Python."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Ear:
    """Hears every file that the process opens; a hook of the interpreter that stays."""

    def __init__(self) -> None:
        self.listening = 0
        self.heard: set[str] = set()
        self._is_there = False

    def begin(self) -> None:
        if not self._is_there:
            sys.addaudithook(self._hear)
            self._is_there = True
        self.listening += 1

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        """It is called in the middle of everything, and must not raise."""
        if event != "open" or not self.listening:
            return
        path, _, flags = args
        try:
            if not isinstance(path, int) and not flags & os.O_WRONLY:
                self.heard.add(_source_of(os.path.abspath(os.fsdecode(path))))
        except Exception:  # such as no working folder
            return


_ear = _Ear()


@contextmanager
def listening() -> Iterator[None]:
    """While open, files that are opened to be read are taken note of."""
    _ear.begin()
    try:
        yield
    finally:
        _ear.listening -= 1


def taken() -> set[str]:
    """What was read since this was last asked; of a module that was read from a cache, its source."""
    heard, _ear.heard = _ear.heard, set()
    return heard


def _source_of(path: str) -> str:
    if not path.endswith(".pyc"):
        return path
    source = importlib.util.source_from_cache(path)
    return source if os.path.exists(source) else path
