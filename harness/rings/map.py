"""The map of a dump's key/value rings: which frame every slot holds, frame after frame."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.errors import UserError
from harness.records import Manifest, read_manifest, read_records
from harness.rings.side import NONE, NOTHING, UNKNOWN, RingGeometry, RingSide, Sighting, tells_of_a_ring

LEGEND = "*n: written by this frame; (n): hidden from it; .: nothing; ?: unknown content"


class _Row(NamedTuple):
    """A layer's ring after one frame's cache pass: a cell per slot in use, the tail, what the frame evicted."""

    cells: tuple[str, ...]
    evicted: str


def ring_map(folder: Path, layer: int | None = None) -> list[str]:
    """The rings of a dump as lines: of one layer or of all, those with equal maps together.

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
    maps: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, rows in sorted(_rows(folder, geometries, layer).items()):
        maps[geometries[number].kind, *_table(rows)].append(number)
    if not maps:
        raise _untold(folder, "no record that tells the content of a ring's slots")
    lines = []
    for (kind, *table), layers in maps.items():
        at = geometries[layers[0]]
        names = f"{kind} layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
        kept = "every frame" if at.dilation == 1 else f"one frame in {at.dilation}"
        lines += [f"{names}: {at.slots} slots for {kept}", *table, ""]
    return [*lines, LEGEND]


def _geometries(folder: Path, manifest: Manifest) -> list[RingGeometry]:
    if manifest.rings is None:
        raise _untold(folder, "no `rings` in the manifest")
    return manifest.rings


def _untold(folder: Path, found: str) -> UserError:
    return UserError(
        f"{folder}: does not tell what its rings hold",
        found=found,
        expected="the ring of every layer, and records of kv_cache.layers.* with their slots",
        do="dump again on a CPU, with these sites and *.attn.k_rope among --sites",
    )


def _rows(folder: Path, geometries: list[RingGeometry], layer: int | None) -> dict[int, dict[str, _Row]]:
    """The rows of every layer asked for, by the frame's number."""
    rows: defaultdict[int, dict[str, _Row]] = defaultdict(dict)
    hidden: dict[int, set[int]] = {}
    held: dict[int, list[str]] = {}
    for seen in _sightings(folder):
        if layer not in (None, seen.layer):
            continue
        if seen.part == "visible":
            hidden[seen.layer] = {slot for slot, mark in enumerate(seen.marks) if mark == NONE}
        elif seen.part == "kv" and seen.held is not None:
            before = held.get(seen.layer, [NOTHING] * len(seen.held))
            frame = "image" if seen.key.phase == "image" else str(seen.key.frame)
            used = geometries[seen.layer].slots
            rows[seen.layer][frame] = _row(before, seen.held, hidden.get(seen.layer, set()), used)
            held[seen.layer] = seen.held
    return rows


def _sightings(folder: Path) -> Iterator[Sighting]:
    side = RingSide()
    for record in read_records(folder):
        if tells_of_a_ring(record.site) and (seen := side.observe(record.sign)) is not None:
            yield seen


def _row(before: list[str], after: list[str], hidden: set[int], used: int) -> _Row:
    """A ring whose slots held `before` until a frame left them as `after`; `hidden` slots were not seen by it."""
    cells, evicted = [], []
    for slot, (old, new) in enumerate(zip(before[:used], after[:used], strict=True)):
        written = f"*{_short(new)}" if new != old else _short(new)
        cells.append(f"{written} ({_short(old)})" if slot in hidden and old != NOTHING else written)
        if new != old != NOTHING:
            evicted.append(_short(old))
    return _Row((*cells, _short(after[-1])), ", ".join(evicted))


def _table(rows: dict[str, _Row]) -> list[str]:
    """Rows of a layer as aligned lines under a head."""
    slots = len(next(iter(rows.values())).cells) - 1
    lines = [["frame", *map(str, range(slots)), "tail", "evicted"]]
    lines += [[frame, *row.cells, row.evicted] for frame, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _short(held: str) -> str:
    """What a slot holds, in a cell: `8`, `image`, `8 as of denoise step 3`."""
    marks = {NOTHING: ".", UNKNOWN: "?"}
    return marks.get(held, held.removeprefix("frame ").removeprefix("the "))
