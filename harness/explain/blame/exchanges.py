"""Exchanges: what is taken from another implementation, from one site to a whole family, and their names."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.explain.blame.parts import FAMILIES, PARTS, Part
from waypoint_parity.harness.run.keys import Key, block_of

_BLOCK = re.compile(r"block (\d+)")
_OF_A_BLOCK = ("transformer.blocks.{}", "transformer.blocks.{}.*", "kv_cache.layers.{}.*")


@dataclass(frozen=True)
class Exchange:
    """What is taken from another implementation: `parts`, of all blocks or of some, and the sites that globs name."""

    name: str
    parts: tuple[Part, ...] = ()
    # None: of all blocks.
    blocks: frozenset[int] | None = None
    sites: tuple[str, ...] = ()

    def __contains__(self, key: object) -> bool:
        """Whether the value at a key is exchanged."""
        if not isinstance(key, Key):
            return False
        if any(fnmatchcase(key.site, glob) for glob in self.sites):
            return True
        if self.blocks is not None and block_of(key.site) not in self.blocks:
            return False
        return any(part.shows(key) or part.carries(key) for part in self.parts)


def exchanged(key: Key, exchanges: Iterable[Exchange]) -> bool:
    """Whether any of the exchanges takes the value at `key`."""
    return any(key in exchange for exchange in exchanges)


def carried(key: Key, exchanges: Iterable[Exchange]) -> bool:
    """Whether any of the exchanges takes the value at `key` though its errors are another part's."""
    return any(part.carries(key) for exchange in exchanges for part in exchange.parts)


def exchange_of(part: Part, blocks: Collection[int] | None) -> Exchange:
    """The exchange of one part, of all `blocks` (None) or of some."""
    if blocks is None:
        return Exchange(part.name, (part,))
    numbers = ", ".join(map(str, sorted(blocks)))
    return Exchange(f"{part.name} of block{'s' if len(blocks) > 1 else ''} {numbers}", (part,), frozenset(blocks))


def exchange_called(name: str, sites: Collection[str]) -> Exchange:
    """What a user calls so: a part, a family, `block 3` with its ring, or a glob of `sites`.

    Raises UserError for a name that is none of these.
    """
    parts = tuple(part for part in PARTS if part.family == name) or tuple(part for part in PARTS if part.name == name)
    if parts:
        return Exchange(name, parts)
    block = _BLOCK.fullmatch(name)
    globs = (name,) if block is None else tuple(glob.format(block.group(1)) for glob in _OF_A_BLOCK)
    if not any(fnmatchcase(site, glob) for site in sites for glob in globs):
        raise UserError(
            f"{name}: nothing that can be exchanged is called so",
            found=name,
            expected=f"a part ({listed([part.name for part in PARTS], most=len(PARTS))}), a family "
            f"({listed(list(FAMILIES), most=len(FAMILIES))}), a block such as `block 3`, or a glob of sites",
            do="correct --exchange",
        )
    return Exchange(name, sites=globs)
