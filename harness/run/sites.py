"""Sites: all that is known of the places of observation of a family, in one table. Nothing here needs torch.

A family makes the table of a geometry. Everything else that anybody asks of a site is a query of that table.
"""

import enum
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from waypoint_parity.harness.run.keys import At, Key, is_input


class Kind(enum.StrEnum):
    """What a site shows, which decides how two sides are compared there."""

    INPUT = "input"  # as consumed: equal, or nothing is scored
    ACTIVATION = "activation"
    LATENT = "latent"  # an activation whose error is followed from unit to unit
    MASK = "mask"  # right or wrong, with nothing in between
    CACHE = "cache"  # state that outlives a step
    PICTURE = "picture"  # [n,H,W,3] or [H,W,3] uint8
    SOUND = "sound"


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """One site in the phases that show it."""

    name: str
    phases: tuple[str, ...]
    # To whom its own errors belong.
    part: str
    kind: Kind = Kind.ACTIVATION
    # The sites that it is computed from.
    reads: tuple[str, ...] = ()
    # Sites whose errors reach it whatever is patched.
    around: tuple[str, ...] = ()
    # Parts that act through it, and are exchanged with it.
    carries: tuple[str, ...] = ()
    # Names of --accept-inputs that let it differ.
    accepted_as: tuple[str, ...] = ()
    # Phases of which a pass that one side only has is this site's error; else it is that of the pass's last site.
    stands_for: tuple[str, ...] = ()
    # Shown in a phase's first step only.
    once: bool = False
    # Shown by every branch of a step; else once for all of them.
    branched: bool = False
    # An implementation may do without it altogether.
    optional: bool = False
    # It is made of the latent that the unit's last step ended with.
    takes_final: bool = False
    # Put from the reference into the candidate where a run is teacher-forced.
    taught: bool = False
    # Of a picture: another size is made of what it reads, so that a level may be off by one.
    resized: bool = False


def input_row(
    name: str,
    part: str,
    phases: tuple[str, ...],
    *also: str,
    once: bool = False,
    branched: bool = False,
    stands_for: tuple[str, ...] = (),
) -> SiteRow:
    """The row of `input.NAME`, which --accept-inputs takes by that name, and by those given `also`."""
    return SiteRow(
        name=f"input.{name}",
        phases=phases,
        part=part,
        kind=Kind.INPUT,
        accepted_as=(name, *also),
        once=once,
        branched=branched,
        stands_for=stands_for,
    )


class SiteTable:
    """The rows of a family, in the order of execution."""

    def __init__(self, rows: Iterable[SiteRow]) -> None:
        """Raise ValueError for a name that could not be read back, or that would hide what a site shows."""
        self.rows = tuple(rows)
        for row in self.rows:
            if unreadable := {"@", "#", "/"}.intersection(row.name):
                raise ValueError(f"site {row.name}: no name has {' or '.join(sorted(unreadable))}")
            if is_input(row.name) != (row.kind is Kind.INPUT):
                raise ValueError(f"site {row.name}: inputs, and nothing else, are called input.*")
            for phase in row.phases:
                if not phase or phase[-1].isdigit() or "/" in phase:
                    raise ValueError(f"phase {phase!r}: no phase is empty, ends in a digit or has /")
        if len(pictures := {row.name for row in self.rows if row.kind is Kind.PICTURE}) > 1:
            # A unit's pictures are numbered through, whatever shows them.
            raise ValueError(f"one site shows all pictures, not {', '.join(sorted(pictures))}")

    def of(self, site: str, phase: str | None = None) -> SiteRow | None:
        """The row of a site, in any phase or in one; None for a site that the family does not have.

        A number that the table does not reach stands for any other: a table of two layers knows the sites of thirty.
        """
        return next((row for row in self._rows(site) if phase is None or phase in row.phases), None)

    def kind(self, site: str, phase: str | None = None) -> Kind:
        """What a site shows, in a phase if one is named; an activation where the family does not know it."""
        if (row := self._at(site, phase)) is not None:
            return row.kind
        return Kind.INPUT if is_input(site) else Kind.ACTIVATION

    def is_mask(self, site: str) -> bool:
        """Whether the site is right or wrong, with nothing in between."""
        return self.kind(site) is Kind.MASK

    def is_optional(self, site: str) -> bool:
        """Whether an implementation may do without the site."""
        row = self.of(site)
        return row is not None and row.optional

    def shown(self, phase: str, step: int, branches: Collection[str]) -> Iterator[tuple[SiteRow, str]]:
        """(row, branch) of everything that a right implementation shows in a pass, in the order of execution."""
        for row in self.rows:
            if phase in row.phases and (step == 0 or not row.once):
                yield from ((row, branch) for branch in (branches if row.branched else ("",)))

    def showing(self, key: Key, session: Iterable[At]) -> list[At]:
        """The steps of a session that show the site of `key` as a site of the same part, in order."""
        part = self.part_of(key)
        rows = [row for row in self._rows(key.site) if row.part == part]
        steps = dict.fromkeys(session)
        return [at for at in steps if any(at.phase in row.phases and not (row.once and at.step) for row in rows)]

    def sites(self, kind: Kind) -> list[str]:
        """The names of the sites of a kind."""
        return list(dict.fromkeys(row.name for row in self.rows if row.kind is kind))

    def reads(self, site: str) -> tuple[str, ...]:
        """The sites that a site is computed from, in any phase: those of its last row first."""
        return tuple(dict.fromkeys(name for row in reversed(self._by_name.get(site, [])) for name in row.reads))

    def around(self, site: str) -> tuple[str, ...]:
        """The sites whose errors reach a site whatever is patched."""
        return tuple(dict.fromkeys(name for row in self._by_name.get(site, ()) for name in row.around))

    def part_of(self, key: Key) -> str:
        """The part whose errors are seen at `key`. Raises ValueError for a site that is none."""
        row = self._at(key.site, key.phase)
        if row is None:
            raise ValueError(f"{key.site} in a {key.phase} pass is no site of any part")
        return row.part

    def parts_at(self, sites: Iterable[str]) -> set[str]:
        """The parts whose errors are seen at any of `sites` in any phase."""
        rows = (row for site in sites for row in self._rows(site))
        return {row.part for row in rows}

    def shows(self, key: Key, part: str) -> bool:
        """Whether errors of a part are seen at `key`."""
        row = self._at(key.site, key.phase)
        return row is not None and row.part == part

    def carries(self, key: Key, part: str) -> bool:
        """Whether `key` is exchanged with a part though its errors are another one's."""
        row = self.of(key.site, key.phase)
        return row is not None and part in row.carries

    def takes_final(self, key: Key) -> bool:
        """Whether the value at `key` is made of the latent that its unit's steps ended with."""
        row = self.of(key.site, key.phase)
        return row is not None and row.takes_final

    def entry(self, phase: str) -> str | None:
        """The site at which a pass that one side only has is an error; None for a phase that the family does not have.

        See SiteRow.stands_for.
        """
        marked = [row.name for row in self.rows if phase in row.stands_for]
        names = marked or [row.name for row in self.rows if phase in row.phases][-1:]
        return names[0] if names else None

    def accepted(self, name: str) -> frozenset[str]:
        """The sites that may differ where `name` is accepted."""
        return frozenset(row.name for row in self.rows if name in row.accepted_as)

    def _at(self, site: str, phase: str | None) -> SiteRow | None:
        """The row of a site in a phase; in any other where it has none in that."""
        return self.of(site, phase) or self.of(site)

    def _rows(self, site: str) -> Sequence[SiteRow]:
        return self._by_name.get(site) or self._by_kind.get(kind_of(site)) or ()

    @cached_property
    def acceptable(self) -> tuple[str, ...]:
        """Every name that accepts something."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.accepted_as))

    @cached_property
    def sampling(self) -> frozenset[str]:
        """The phases whose steps lead to a unit's final latent."""
        return frozenset(phase for row in self.rows if row.kind is Kind.LATENT for phase in row.phases)

    @cached_property
    def _by_name(self) -> dict[str, list[SiteRow]]:
        found: dict[str, list[SiteRow]] = {}
        for row in self.rows:
            found.setdefault(row.name, []).append(row)
        return found

    @cached_property
    def _by_kind(self) -> dict[str, list[SiteRow]]:
        # The last number's rows: the first layer is often made otherwise.
        return {kind_of(name): rows for name, rows in self._by_name.items()}


def kind_of(site: str) -> str:
    """The name of a site with every number replaced by `*`: the same for all blocks."""
    return re.sub(r"\d+", "*", site)
