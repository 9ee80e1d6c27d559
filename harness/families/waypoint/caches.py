"""The key/value rings, as the harness asks for caches."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.rings.comparison import RingComparison
from waypoint_parity.harness.families.waypoint.rings.map import LEGEND, cache_table, ring_tables
from waypoint_parity.harness.families.waypoint.rings.side import Sign, geometries_of, ring_geometries, tells_of_a_ring
from waypoint_parity.harness.run.family import CacheTable, MarksTold, SlotFault
from waypoint_parity.harness.run.keys import Key

if TYPE_CHECKING:
    from torch import Tensor


class RingCaches:
    """See harness.run.family.Caches."""

    legend = LEGEND

    def describe(self, geometry: WaypointGeometry) -> list[dict[str, Any]]:
        """The ring of every layer."""
        return [msgspec.to_builtins(ring) for ring in ring_geometries(geometry.transformer)]

    def marks(self, site: str, tensor: "Tensor", described: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """A word for every slot of a ring site, the tail last."""
        from waypoint_parity.harness.families.waypoint.rings.slots import slot_marks

        return slot_marks(site, tensor, described[0]["tokens"]) if described else None

    def wrong_marks(
        self, told: MarksTold, tensor: "Tensor | None", described: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str] | None:
        """What of a ring contradicts the words that are told of it."""
        from waypoint_parity.harness.families.waypoint.rings.slots import wrong_marks

        try:
            tokens = min((ring.tokens for ring in geometries_of(described)), default=0)
        except msgspec.ValidationError:
            tokens = 0
        return wrong_marks(told, tensor, tokens)

    def tells(self, site: str) -> bool:
        """Whether a site shows a ring, or keys that a ring may hold."""
        return tells_of_a_ring(site)

    def sign(self, key: Key, dtype: str | None, digest: str | None, marks: list[str] | None) -> Sign:
        """What an observation tells of the rings."""
        return Sign(key, dtype, digest, marks)

    def lines(self, folder: Path, layer: int | None) -> list[str]:
        """Which frame every slot of a ring holds, frame after frame."""
        from waypoint_parity.harness.families.waypoint.rings.map import ring_map

        return ring_map(folder, layer)

    def comparison(self, described: Sequence[Mapping[str, Any]], *, teacher_forced: bool) -> RingComparison:
        """The rings of two sides, slot by slot."""
        return RingComparison(geometries_of(described), teacher_forced=teacher_forced)

    def tables(self, folder: Path, faults: Collection[SlotFault] = (), *, block: int | None = None) -> list[CacheTable]:
        """The rings of a dump, those with equal maps together."""
        return [cache_table(table, faults) for table in ring_tables(folder)]
