"""Wiring: which errors can reach which sites, in the sessions of one case."""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain

from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.keys import Key, Order
from waypoint_parity.harness.run.sites import Kind, SiteTable


class Wiring:
    """What findings go by: the parts in the order of execution, the sites, and the order of a session's steps."""

    def __init__(self, parts: Sequence[Part], table: SiteTable, order: Order) -> None:
        self.parts = parts
        self.table = table
        self._order = order

    def part_of(self, key: Key) -> Part:
        """The part whose errors are seen at `key`. Raises ValueError for a site that is none."""
        return self._named[self.table.part_of(key)]

    def entered_by(self, phase: str) -> Part | None:
        """The part that is at fault where only one side has a pass of this phase."""
        site = self.table.entry(phase)
        return None if site is None else self.part_of(Key(0, phase, 0, site))

    def exposed_to(self, site: str, patched: Collection[str]) -> list[str]:
        """The sites whose errors `site` may show although the sites `patched` hold the right values, nearest first."""
        found: dict[str, None] = {}
        pending = list(self._unpatched(site, patched))
        while pending:
            ancestor = pending.pop(0)
            if ancestor not in found and ancestor != site:
                found[ancestor] = None
                pending += self._unpatched(ancestor, patched)
        return list(found)

    def _unpatched(self, site: str, patched: Collection[str]) -> Iterator[str]:
        direct = (ancestor for ancestor in self.table.reads(site) if ancestor not in patched)
        return chain(self.table.around(site), direct)

    def reaches(self, other: Key, key: Key) -> bool:
        """Whether an error at `other` that no patch kept from spreading is seen at `key`, which is exposed to it."""
        if other.site in self._known and key.phase not in self._given:
            return other.unit == key.unit
        if other.site in self._left_behind and self.table.kind(key.site) not in (Kind.CACHE, Kind.MASK):
            # What a pass leaves in a cache is seen by those that follow.
            return self._order.rank(other.at) < self._order.rank(key.at)
        return other.at == key.at

    def is_handed_on(self, key: Key) -> bool:
        """Whether `key` shows what the sampler hands on, step by step or in the end."""
        row = self.table.of(key.site, key.phase)
        return row is not None and any(part in self._sampled for part in row.carries)

    @cached_property
    def _named(self) -> dict[str, Part]:
        return {part.name: part for part in self.parts}

    @cached_property
    def _known(self) -> set[str]:
        """Inputs that a session also knows by itself: an error of theirs reaches the whole unit."""
        around = {name for row in self.table.rows for name in row.around}
        return {name for name in around if self.table.kind(name) is Kind.INPUT}

    @cached_property
    def _given(self) -> set[str]:
        """Phases in which something is made of what a session is given, before any unit."""
        made = (row for row in self.table.rows if row.kind is not Kind.INPUT)
        return {phase for row in made if self._named[row.part].place == "input" for phase in row.phases}

    @cached_property
    def _left_behind(self) -> set[str]:
        """What caches hold, and the masks that say where."""
        caches = [row for row in self.table.rows if row.kind is Kind.CACHE]
        masks = {name for row in caches for name in row.reads if self.table.is_mask(name)}
        return masks | {row.name for row in caches}

    @cached_property
    def _sampled(self) -> set[str]:
        """The parts that act through the final latent."""
        return {part for row in self.table.rows if row.takes_final for part in row.carries}
