"""The caches of a cell: what every slot holds, of both sides, with the wrong slots marked."""

from collections.abc import Collection
from dataclasses import dataclass

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.family import CacheTable, SlotFault
from waypoint_parity.reports.run import SIDES, CellReport
from waypoint_parity.reports.table import Table


@dataclass(frozen=True)
class CacheMap:
    """One side's caches, a table for those that hold the same, or why they are not told."""

    title: str
    tables: list[tuple[str, Table]]
    untold: str | None = None


def cache_maps(cell: CellReport) -> list[CacheMap]:
    """The caches of both sides, once where they are equal; none of a family without caches.

    The slots that the comparison calls wrong are marked.
    """
    faults = cell.comparison.slots
    reference, candidate = (_told(cell, side, faults if side == "candidate" else ()) for side in SIDES)
    if reference is None and candidate is None:
        return []
    if isinstance(reference, list) and reference == candidate and not faults:
        return [CacheMap("both sides", _shown(reference))]
    told = zip(SIDES, (reference, candidate), strict=True)
    return [
        CacheMap(side, [], tables) if isinstance(tables, str) else CacheMap(side, _shown(tables or []))
        for side, tables in told
    ]


def _told(cell: CellReport, side: str, faults: Collection[SlotFault]) -> list[CacheTable] | str | None:
    """The tables of a side, or why there are none; None of a family without caches."""
    if side not in cell.manifests:
        # Only a family without caches has no legend of their signs.
        return "there is no dump of this side" if cell.family.caches.legend else None
    try:
        return cell.family.caches.tables(cell.folder / side, faults)
    except UserError as error:
        return f"{error.what}: {error.found}".replace(f"{cell.folder}/", "")


def _shown(tables: list[CacheTable]) -> list[tuple[str, Table]]:
    return [
        (
            table.title,
            Table.of(
                [dict(zip(table.columns, row, strict=True)) for row in table.rows],
                marks=dict.fromkeys(table.marks, "bad"),
            ),
        )
        for table in tables
    ]
