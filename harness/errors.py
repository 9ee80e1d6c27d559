"""The errors that a user sees: what is wrong, what was found, what was expected, what to do."""

import difflib
import re
from collections.abc import Collection
from functools import partial

# How alike two names are of which one is taken for the other, misspelt.
_ALIKE = 0.8
# A file may bring line breaks and commands for the terminal into a message.
_UNPRINTABLE = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029]+\s*")


class FourPartError(Exception):
    """An error that is printed without a traceback.

    The four parts are kept apart, so that a test asserts on one of them and a page can lay them out. Each is one line.
    """

    def __init__(self, what: str, *, found: str, expected: str, do: str) -> None:
        what, found, expected, do = (_printable(part) for part in (what, found, expected, do))
        super().__init__(f"{what}\n  found:    {found or 'nothing'}\n  expected: {expected}\n  do:       {do}")
        self.what = what
        self.found = found
        self.expected = expected
        self.do = do

    def __reduce__(self) -> tuple[object, ...]:
        """Its parts, for another process."""
        return partial(type(self), found=self.found, expected=self.expected, do=self.do), (self.what,)


def _printable(text: str) -> str:
    """A text in one line that can be written anywhere."""
    return _UNPRINTABLE.sub(" ", text).strip().encode(errors="backslashreplace").decode()


class UserError(FourPartError, ValueError):
    """A mistake in the call, in an adapter or in a file that the caller gave. The CLI exits 2."""


class EngineError(FourPartError, RuntimeError):
    """An implementation failed while it was driven. It tells where, and the engine's own words. The CLI exits 70."""


def listed(names: list[str], *, most: int = 8) -> str:
    """Names for a message: all of them while they fit, else the first `most` and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one of `known` that must have been meant by a misspelt name; None where there is none."""
    return next(iter(difflib.get_close_matches(name, known, 1, _ALIKE)), None)
