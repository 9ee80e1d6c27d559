"""Keys: the identity of one observation. Nothing here needs torch."""

import re
from collections.abc import Iterable
from typing import NamedTuple, Self

# Dumps of the first schema have an f for the u.
_NAME = re.compile(r"[uf](\d+)/([^/]*[^/\d])(\d+)/([^@#]+)(?:@([^#]+))?(?:#(\d+))?")


class At(NamedTuple):
    """A step of a session, by what names it: one pass, or the several that evaluate its branches."""

    unit: int
    phase: str
    step: int


class Rung(NamedTuple):
    """A site in one step, of whatever unit."""

    phase: str
    step: int
    site: str
    branch: str = ""


class Key(NamedTuple):
    """Identity of one observation.

    A unit is what one generate call makes: a frame, a chunk, a clip. A branch is one of the evaluations that a step
    needs, "" where there is one. `call` counts repeats of a site within a step and branch, from 0.
    """

    unit: int
    phase: str
    step: int
    site: str
    branch: str = ""
    call: int = 0

    @property
    def at(self) -> At:
        """The step that it was seen in."""
        return At(self.unit, self.phase, self.step)

    @property
    def rung(self) -> Rung:
        """The same without unit and call."""
        return Rung(self.phase, self.step, self.site, self.branch)

    def __str__(self) -> str:
        """The name of its tensor in a file: u{unit}/{phase}{step}/{site}, perhaps @{branch} and #{call} behind it."""
        call = f"#{self.call}" if self.call else ""
        return f"u{self.unit}/{self.phase}{self.step}/{site_name(self.site, self.branch)}{call}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The key whose name this is; None where it is none. No phase ends in a digit."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        unit, phase, step, site, branch, call = found.groups(default="")
        return cls(int(unit), phase, int(step), site, branch, int(call or 0))


class Order:
    """The order of a session's steps, as `planned`.

    A step that was not planned comes after those of its unit and phase. One of an unplanned phase comes behind the
    planned step that its session ran before it, or at its unit's end where that is not known.
    """

    def __init__(self, planned: Iterable[At]) -> None:
        self._ranks: dict[At, int] = {}
        self._last: dict[tuple[int, str], int] = {}
        self._ends: dict[int, int] = {}
        for rank, at in enumerate(planned):
            self._ranks.setdefault(at, rank)
            self._last[at.unit, at.phase] = self._ends[at.unit] = rank

    def __contains__(self, at: At) -> bool:
        return at in self._ranks

    def rank(self, at: At, behind: At | None = None) -> tuple[int, int, int, str, int]:
        """Something to sort steps by; `behind` is the last planned step that the session of `at` ran."""
        if at in self._ranks:
            return self._ranks[at], 0, 0, "", 0
        last = self._last.get((at.unit, at.phase))
        if last is not None:
            return last, 1, 0, "", at.step
        if behind is not None:
            return self._ranks[behind], 2, at.unit, at.phase, at.step
        end = max((end for unit, end in self._ends.items() if unit <= at.unit), default=-1)
        return end, 2, at.unit, at.phase, at.step


def site_name(site: str, branch: str) -> str:
    """A site of one branch has @ and the branch behind its name."""
    return f"{site}@{branch}" if branch else site


def is_input(site: str) -> bool:
    """Whether the site is an input as the implementation consumed it, rather than something it computed."""
    return site.startswith("input.")


def block_of(site: str) -> int | None:
    """The number in a site's name: that of its block, layer or stage."""
    return next((int(part) for part in site.split(".") if part.isdecimal()), None)


def last_name(site: str) -> str:
    """The last part of a site's name that is no number."""
    return [part for part in site.split(".") if not part.isdigit()][-1]
