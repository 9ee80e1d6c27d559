"""The key/value rings of a cell: which frame every slot holds, of both sides, with the wrong slots marked."""

from dataclasses import dataclass

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.rings.map import RingTable, ring_tables
from waypoint_parity.reports.run import SIDES, CellReport
from waypoint_parity.reports.table import Table


@dataclass(frozen=True)
class RingMap:
    """One side's rings, a table for each group of layers with equal ones, or why they are not told."""

    title: str
    tables: list[tuple[str, Table]]
    untold: str | None = None


def ring_maps(cell: CellReport) -> list[RingMap]:
    """The rings of both sides, once where they are equal; the slots that the comparison calls wrong are marked."""
    told = {side: _tables(cell, side) for side in SIDES}
    reference, candidate = (told[side] for side in SIDES)
    if isinstance(reference, list) and reference == candidate and not cell.comparison.ring:
        return [RingMap("both sides", [(str(table), _marked(table, set())) for table in reference])]
    wrong = {(fault.layer, "image" if fault.phase == "image" else str(fault.frame), fault.slot) for fault in
             cell.comparison.ring}  # fmt: skip
    maps = []
    for side, tables in told.items():
        if isinstance(tables, str):
            maps.append(RingMap(side, [], tables))
            continue
        slots = wrong if side == "candidate" else set()
        maps.append(RingMap(side, [(str(table), _marked(table, slots)) for table in tables]))
    return maps


def _tables(cell: CellReport, side: str) -> list[RingTable] | str:
    if side not in cell.manifests:
        return "there is no dump of this side"
    try:
        return ring_tables(cell.folder / side)
    except UserError as error:
        return f"{error.what}: {error.found}".replace(f"{cell.folder}/", "")


def _marked(table: RingTable, wrong: set[tuple[int, str, int]]) -> Table:
    rows, marks = [], dict[tuple[int, str], str]()
    for number, row in enumerate(table.rows):
        *slots, tail = row.cells
        rows.append(
            {"frame": row.frame}
            | {f"slot {slot}": held for slot, held in enumerate(slots)}
            | {"tail": tail, "evicted": row.evicted}
        )
        for slot in range(len(slots)):
            if any((layer, row.frame, slot) in wrong for layer in table.layers):
                marks[number, f"slot {slot}"] = "bad"
    return Table.of(rows, marks=marks)
