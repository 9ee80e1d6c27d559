"""The contract of a cell: what both sides were given, what each of them consumed, and how each of them computed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import Record, records_mentioning
from waypoint_parity.harness.run.family import Family, Field
from waypoint_parity.harness.run.keys import block_of, is_input
from waypoint_parity.harness.run.sites import kind_of
from waypoint_parity.reports.inputs import Given
from waypoint_parity.reports.run import SIDES, CellReport
from waypoint_parity.reports.table import Table

_UNTOLD = "not told"


class Contract:
    """The contract of one cell. Read once: every observation of an input, of both sides."""

    def __init__(self, cell: CellReport, given: Given | None) -> None:
        """`given`: the scenario of the cell, None where its file is not there."""
        self._family = cell.family
        self._manifests = cell.manifests
        self._given = given
        self._consumed = {side: _inputs(cell.folder / side) for side in cell.manifests}

    def table(self) -> Table:
        """What was asked and how it was computed, a row for each fact; those that differ are marked.

        What an implementation says of itself may differ; everything else makes the two answer different questions.
        """
        told = {side: self._facts(side) for side in SIDES if side in self._manifests}
        own = {name for manifest in self._manifests.values() for name in ("implementation", *manifest.description)}
        names = dict.fromkeys(name for facts in told.values() for name in facts)
        rows, marks = [], dict[tuple[int, str], str]()
        for number, name in enumerate(names):
            values = [told.get(side, {}).get(name) or _UNTOLD for side in SIDES]
            rows.append({"fact": name} | dict(zip(SIDES, values, strict=True)))
            if len(set(values)) > 1:
                marks |= {(number, side): "own" if name in own else "differs" for side in SIDES}
        return Table.of(rows, marks=marks)

    def by_unit(self) -> Table:
        """What every unit was given; where the two sides consumed something else, that is marked."""
        fields = {} if self._given is None else {name: texts for name, texts in self._given.of_units.items() if texts}
        rows: list[dict[str, Any]] = [
            {self._family.unit_name: unit} | dict(zip(fields, texts, strict=True))
            for unit, texts in enumerate(zip(*fields.values(), strict=True))
        ]
        digests = {name: [self._digests(side, name) for side in self._manifests] for name in fields}
        marks = {
            (unit, name): "differs"
            for unit in range(len(rows))
            for name, sides in digests.items()
            if len({side.get(unit) for side in sides}) > 1
        }
        return Table.of(rows, marks=marks)

    def _digests(self, side: str, field: str) -> dict[int, str | None]:
        """What a side consumed of a field in every unit."""
        return {record.unit: record.digest for record in self._consumed[side].get(_site_of(field, self._family), [])}

    def _facts(self, side: str) -> dict[str, str]:
        manifest, consumed = self._manifests[side], self._consumed[side]
        facts = {"implementation": manifest.implementation} | manifest.description | manifest.numerics
        facts |= {
            "torch": manifest.torch,
            "threads": str(manifest.threads),
            "platform": manifest.platform,
            "source revision": manifest.source_revision or _UNTOLD,
            "observer": manifest.observer or _UNTOLD,
            "checkpoint": f"{manifest.checkpoint_origin}, digest {manifest.checkpoint_digest[:12]}",
        }
        facts |= self._family.facts(Path(manifest.checkpoint_origin))
        if manifest.sigmas:
            facts["schedule"] = ", ".join(f"{sigma:.6g}" for sigma in manifest.sigmas)
        for name, field in self._family.fields.items():
            if field.schedule:
                facts[f"{name} consumed"] = _levels(consumed.get(_site_of(name, self._family), []))
        facts |= {f"{name}, digest": digest[:12] for name, digest in (manifest.inputs or {}).items()}
        facts |= {} if self._given is None else self._given.facts
        sites = [_site_of(name, self._family) for name, field in self._family.fields.items() if _has_values(field)]
        facts |= {f"{site} consumed": _statistics(consumed[site]) for site in sites if site in consumed}
        return facts | ({"caches": "; ".join(_alike(manifest.caches))} if manifest.caches else {})


def _inputs(dump: Path) -> dict[str, list[Record]]:
    """The observations of every input site, in order; none of a dump that is broken."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    try:
        for record in records_mentioning(dump, ["input."]):
            if is_input(record.site):
                found[record.site].append(record)
    except UserError:
        return {}
    return found


def _site_of(name: str, family: Family) -> str:
    """The site that shows a field as it was consumed."""
    return family.fields[name].site or f"input.{name}"


def _has_values(field: Field) -> bool:
    """Whether the statistics of a field are of use: it is told neither unit by unit nor as a schedule."""
    return not field.schedule and not (field.of_units and field.told is not None)


def _statistics(records: list[Record]) -> str:
    """Mean and spread of the first observation, and one digest of all of them."""
    first = records[0]
    digest = hashlib.sha256("".join(record.digest or record.sketch for record in records).encode()).hexdigest()
    number = f"{len(records)} x " if len(records) > 1 else ""
    shape = "x".join(map(str, first.shape or ()))
    spread = f"mean {first.mean:.6g}, std {first.std:.6g}" if first.mean is not None and first.std is not None else ""
    return f"{number}{shape} {first.dtype}, {spread}, digest {digest[:12]}"


def _levels(records: list[Record]) -> str:
    """The level of every pass of the first unit, of the phases that all have; and whether every unit had the same."""
    units = [list(passes) for _, passes in groupby(records, lambda record: record.unit)]
    if not units:
        return _UNTOLD
    shared = set.intersection(*({record.phase for record in passes} for passes in units))
    told = [[(record.phase, _level(record)) for record in passes if record.phase in shared] for passes in units]
    levels = [[f"{phase} {level:.6g}" for phase, level in passes if level is not None] for passes in told]
    others = "" if all(each == levels[0] for each in levels) else "; others later on"
    return f"{', '.join(levels[0])}{others}"


def _alike(caches: list[dict[str, Any]]) -> Iterator[str]:
    """The caches that a manifest describes, those of one kind together."""
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for cache in caches:
        name = str(cache.get("name"))
        said = ", ".join(f"{key} {value}" for key, value in cache.items() if key != "name")
        blocks[f"{kind_of(name)}: {said}"].append(str(block_of(name)))
    for said, numbers in blocks.items():
        name, _, rest = said.partition(": ")
        yield f"{name} {' '.join(numbers)}: {rest}" if "*" in name else said


def _level(record: Record) -> float | None:
    """The level of a step: the first element, where a site shows with it the level that the step goes to."""
    return record.sample[0] if record.sample else record.mean
