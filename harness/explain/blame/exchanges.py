"""Exchanges: what is taken from another implementation, from one site to a whole group of parts, and their names."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key, block_of
from waypoint_parity.harness.run.sites import SiteTable

_BLOCK = re.compile(r"block (\d+)")


@dataclass(frozen=True)
class Exchange:
    """What is taken from another implementation: `parts`, of all blocks or of some, and the sites that globs name."""

    name: str
    parts: tuple[str, ...] = ()
    # None: of all blocks.
    blocks: frozenset[int] | None = None
    sites: tuple[str, ...] = ()

    def takes(self, key: Key, table: SiteTable) -> bool:
        """Whether the value at a key is exchanged."""
        if any(fnmatchcase(key.site, glob) for glob in self.sites):
            return True
        if self.blocks is not None and block_of(key.site) not in self.blocks:
            return False
        return any(table.shows(key, part) or table.carries(key, part) for part in self.parts)


def exchanged(key: Key, exchanges: Iterable[Exchange], table: SiteTable) -> bool:
    """Whether any of the exchanges takes the value at `key`."""
    return any(exchange.takes(key, table) for exchange in exchanges)


def carried(key: Key, exchanges: Iterable[Exchange], table: SiteTable) -> bool:
    """Whether any of the exchanges takes the value at `key` though its errors are another part's."""
    return any(table.carries(key, part) for exchange in exchanges for part in exchange.parts)


def exchange_of(part: str, blocks: Collection[int] | None) -> Exchange:
    """The exchange of one part, of all `blocks` (None) or of some."""
    if blocks is None:
        return Exchange(part, (part,))
    numbers = ", ".join(map(str, sorted(blocks)))
    return Exchange(f"{part} of block{'s' if len(blocks) > 1 else ''} {numbers}", (part,), frozenset(blocks))


def exchange_called(name: str, sites: Collection[str], family: Family) -> Exchange:
    """What a user calls so: a group of parts, a part, `block 3` with its caches, or a glob of `sites`.

    Raises UserError for a name that is none of these.
    """
    parts = tuple(part.name for part in family.parts if part.group == name)
    if parts or any(part.name == name for part in family.parts):
        return Exchange(name, parts or (name,))
    block = _BLOCK.fullmatch(name)
    if block is None:
        found = Exchange(name, sites=(name,))
    else:
        # The numbers of a whole part are no blocks.
        layered = tuple(part.name for part in family.parts if not part.whole)
        found = Exchange(name, layered, frozenset({int(block.group(1))}))
    if not any(found.takes(Key(0, "", 0, site), family.sites) for site in sites):
        names = [part.name for part in family.parts]
        groups = list(dict.fromkeys(part.group for part in family.parts))
        raise UserError(
            f"{name}: nothing that can be exchanged is called so",
            found=name,
            expected=f"a part ({listed(names, most=len(names))}), a group of parts "
            f"({listed(groups, most=len(groups))}), a block such as `block 3`, or a glob of sites",
            do="correct --exchange",
        )
    return found
