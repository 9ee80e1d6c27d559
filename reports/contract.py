"""The contract of a cell: what both sides were given, what each of them consumed, and how each of them computed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import Manifest, Record, records_mentioning
from waypoint_parity.harness.run.keys import is_input
from waypoint_parity.reports.geometry import read_geometry
from waypoint_parity.reports.given import Given
from waypoint_parity.reports.run import SIDES, CellReport
from waypoint_parity.reports.table import Table

_UNTOLD = "not told"


class Contract:
    """The contract of one cell. Read once: every observation of an input, of both sides."""

    def __init__(self, cell: CellReport, given: Given | None) -> None:
        """`given`: the scenario of the cell, None where its file is not there."""
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

    def controls(self) -> Table:
        """The controls of every frame as given; a frame in which the two sides consumed others is marked."""
        if self._given is None:
            return Table.of([])
        marks = {
            (frame, name): "differs"
            for frame in range(len(self._given.controls))
            for name, site in (("buttons", "button"), ("mouse", "mouse"), ("scroll", "scroll"))
            if len({self._digests(side, f"input.{site}").get(frame) for side in self._manifests}) > 1
        }
        rows: list[dict[str, Any]] = [{"frame": frame} | at for frame, at in enumerate(self._given.controls)]
        return Table.of(rows, marks=marks)

    def _digests(self, side: str, site: str) -> dict[int, str | None]:
        return {record.frame: record.digest for record in self._consumed[side].get(site, [])}

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
            "latent scale and shift": _scale_and_shift(Path(manifest.checkpoint_origin)),
            "schedule": ", ".join(f"{sigma:.6g}" for sigma in manifest.sigmas),
            "sigmas consumed": _sigmas(consumed.get("input.sigma", [])),
        }
        facts |= {f"{name}, digest": digest[:12] for name, digest in (manifest.inputs or {}).items()}
        facts |= {} if self._given is None else self._given.facts
        facts |= {f"{site} consumed": _statistics(records) for site, records in consumed.items() if _has_values(site)}
        return facts | {"cache": _geometry(manifest)}


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


def _has_values(site: str) -> bool:
    return site in ("input.noise", "input.prompt_emb", "input.prompt_pad_mask", "input.image")


def _statistics(records: list[Record]) -> str:
    """Mean and spread of the first observation, and one digest of all of them."""
    first = records[0]
    digest = hashlib.sha256("".join(record.digest or record.sketch for record in records).encode()).hexdigest()
    frames = f"{len(records)} x " if len(records) > 1 else ""
    shape = "x".join(map(str, first.shape))
    spread = f"mean {first.mean:.6g}, std {first.std:.6g}" if first.mean is not None and first.std is not None else ""
    return f"{frames}{shape} {first.dtype}, {spread}, digest {digest[:12]}"


def _sigmas(records: list[Record]) -> str:
    """The sigma of every pass of the first frame, and whether every frame had the same."""
    frames = [
        [f"{record.phase} {record.mean:.6g}" for record in passes if record.mean is not None]
        for _, passes in groupby((record for record in records if record.phase != "image"), lambda record: record.frame)
    ]
    if not frames:
        return _UNTOLD
    others = "" if all(frame == frames[0] for frame in frames) else "; other ones in later frames"
    return f"{', '.join(frames[0])}{others}"


def _geometry(manifest: Manifest) -> str:
    if manifest.rings is None:
        return _UNTOLD
    return "; ".join(_alike(manifest))


def _alike(manifest: Manifest) -> Iterator[str]:
    layers: defaultdict[Any, list[str]] = defaultdict(list)
    for layer, ring in enumerate(manifest.rings or []):
        layers[ring].append(str(layer))
    for ring, numbers in layers.items():
        yield (
            f"{ring.kind} layers {' '.join(numbers)}: {ring.slots} slots, one frame in {ring.dilation}, "
            f"{ring.tokens} tokens"
        )


def _scale_and_shift(checkpoint: Path) -> str:
    """What the autoencoder's config says, where the checkpoint is a folder in reach."""
    geometry = read_geometry(checkpoint)
    if geometry is None:
        return "1, 0 (there are no others; the checkpoint's config is not in reach)"
    return f"{geometry.autoencoder.scale_factor:g}, {geometry.autoencoder.shift_factor:g}"
