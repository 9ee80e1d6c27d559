"""The map of a dump's key/value rings: which frame every slot holds, frame after frame."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.rings.side import (
    NONE,
    NOTHING,
    UNKNOWN,
    RingGeometry,
    RingSide,
    Sighting,
    Sign,
    geometries_of,
    tells_of_a_ring,
)
from waypoint_parity.harness.record.records import Manifest, read_manifest, records_mentioning
from waypoint_parity.harness.run.family import CacheTable, SlotFault
from waypoint_parity.harness.run.keys import block_of

LEGEND = "*n: written by this frame; (n): hidden from it; .: nothing; ?: unknown content"
# What the names of the sites have in them that tell of a ring (harness.families.waypoint.rings.side.tells_of_a_ring).
_SITES = ("kv_cache.layers.", ".attn.k_rope")


class RingRow(NamedTuple):
    """A ring after one frame's cache pass: a cell per slot in use, then the tail's; and what the frame evicted.

    `frame` is its number, or "image"; the cells are in the signs of LEGEND.
    """

    frame: str
    cells: tuple[str, ...]
    evicted: str


class RingTable(NamedTuple):
    """The rings of `layers`, which are equal: a row for every frame."""

    layers: list[int]
    geometry: RingGeometry
    rows: list[RingRow]

    def __str__(self) -> str:
        """What kind of ring it is, of which layers."""
        names = f"{self.geometry.kind} layer{'s' if len(self.layers) > 1 else ''} {', '.join(map(str, self.layers))}"
        kept = "every frame" if self.geometry.dilation == 1 else f"one frame in {self.geometry.dilation}"
        return f"{names}: {self.geometry.slots} slots for {kept}"


def ring_map(folder: Path, layer: int | None = None) -> list[str]:
    """The rings of a dump as lines; see `ring_tables`."""
    lines = []
    for table in ring_tables(folder, layer):
        lines += [str(table), *_aligned(table.rows), ""]
    return [*lines, LEGEND]


def ring_tables(folder: Path, layer: int | None = None) -> list[RingTable]:
    """The rings of a dump: of one layer or of all, those with equal maps together.

    Raises UserError for a dump that is broken or incomplete, or that does not tell what its slots hold.
    """
    manifest = read_manifest(folder)
    geometries = _geometries(folder, manifest)
    if layer is not None and layer not in range(len(geometries)):
        raise UserError(
            "there is no such layer",
            found=f"--layer {layer}",
            expected=f"0 to {len(geometries) - 1}",
            do="correct --layer, or leave it out for every layer",
        )
    alike: defaultdict[tuple[str, *tuple[RingRow, ...]], list[int]] = defaultdict(list)
    for number, rows in sorted(_rows(folder, geometries, layer).items()):
        alike[geometries[number].kind, *rows].append(number)
    if not alike:
        raise _untold(folder, "no record that tells the content of a ring's slots")
    return [RingTable(layers, geometries[layers[0]], list(rows)) for (_, *rows), layers in alike.items()]


def cache_table(table: RingTable, faults: Collection[SlotFault]) -> CacheTable:
    """A table as plain values: a column for every slot. The slots of `faults` are marked, each in its frame's row."""
    slots = [f"slot {slot}" for slot in range(table.geometry.slots)]
    wrong = {(_frame(fault.phase, fault.unit), fault.slot) for fault in faults if block_of(fault.cache) in table.layers}
    return CacheTable(
        title=str(table),
        columns=["frame", *slots, "tail", "evicted"],
        rows=[[row.frame, *row.cells, row.evicted] for row in table.rows],
        marks={
            (number, name)
            for number, row in enumerate(table.rows)
            for slot, name in enumerate(slots)
            if (row.frame, slot) in wrong
        },
    )


def _geometries(folder: Path, manifest: Manifest) -> list[RingGeometry]:
    if not manifest.caches:
        raise _untold(folder, "no `caches` in the manifest")
    return geometries_of(manifest.caches)


def _untold(folder: Path, found: str) -> UserError:
    return UserError(
        f"{folder}: does not tell what its rings hold",
        found=found,
        expected="the ring of every layer, and records of kv_cache.layers.* with their slots",
        do="dump again on a CPU, with these sites and *.attn.k_rope among --sites",
    )


def _rows(folder: Path, geometries: list[RingGeometry], layer: int | None) -> dict[int, list[RingRow]]:
    """The rows of every layer asked for, in the order of the frames."""
    rows: defaultdict[int, list[RingRow]] = defaultdict(list)
    hidden: dict[int, set[int]] = {}
    held: dict[int, list[str]] = {}
    for seen in _sightings(folder):
        if layer not in (None, seen.layer):
            continue
        if seen.part == "visible":
            hidden[seen.layer] = {slot for slot, mark in enumerate(seen.marks) if mark == NONE}
        elif seen.part == "kv" and seen.held is not None:
            before = held.get(seen.layer, [NOTHING] * len(seen.held))
            frame, used = _frame(seen.key.phase, seen.key.unit), geometries[seen.layer].slots
            rows[seen.layer].append(_row(frame, before, seen.held, hidden.get(seen.layer, set()), used))
            held[seen.layer] = seen.held
    return rows


def _sightings(folder: Path) -> Iterator[Sighting]:
    side = RingSide()
    for record in records_mentioning(folder, _SITES):
        if (
            tells_of_a_ring(record.site)
            and (seen := side.observe(Sign(record.key, record.dtype, record.digest, record.slots))) is not None
        ):
            yield seen


def _frame(phase: str, unit: int) -> str:
    """The frame of a pass, as its row is called."""
    return "image" if phase == "image" else str(unit)


def _row(frame: str, before: list[str], after: list[str], hidden: set[int], used: int) -> RingRow:
    """A ring whose slots held `before` until `frame` left them as `after`; `hidden` slots were not seen by it."""
    cells, evicted = [], []
    for slot, (old, new) in enumerate(zip(before[:used], after[:used], strict=True)):
        written = f"*{_short(new)}" if new != old else _short(new)
        cells.append(f"{written} ({_short(old)})" if slot in hidden and old != NOTHING else written)
        if new != old != NOTHING:
            evicted.append(_short(old))
    return RingRow(frame, (*cells, _short(after[-1])), ", ".join(evicted))


def _aligned(rows: list[RingRow]) -> list[str]:
    """Rows of a ring as aligned lines under a head."""
    slots = len(rows[0].cells) - 1
    lines = [["frame", *map(str, range(slots)), "tail", "evicted"]]
    lines += [[row.frame, *row.cells, row.evicted] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _short(held: str) -> str:
    """What a slot holds, in a cell: `8`, `image`, `8 as of denoise step 3`."""
    marks = {NOTHING: ".", UNKNOWN: "?"}
    return marks.get(held, held.removeprefix("frame ").removeprefix("the "))
