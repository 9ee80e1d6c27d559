"""The rings of two implementations, slot by slot: the first slots that hold, or show, what they should not."""

from bisect import insort
from collections.abc import Sequence

from waypoint_parity.harness.families.waypoint.rings.side import (
    ALL,
    MIXED,
    NONE,
    UNKNOWN,
    RingGeometry,
    RingSide,
    Sighting,
    Sign,
    frame_name,
)
from waypoint_parity.harness.run.family import SlotFault
from waypoint_parity.harness.run.keys import Key

MOST_FAULTS = 20

_WRITTEN = {ALL: "written", NONE: "unwritten", MIXED: "partly written"}
_VISIBLE = {ALL: "visible", NONE: "hidden", MIXED: "partly visible"}


class RingComparison:
    """Takes the observations of two sides, each side's in its execution order, and keeps the first faults."""

    def __init__(self, geometries: Sequence[RingGeometry] | None, *, teacher_forced: bool = False) -> None:
        """`geometries`: of every layer, where known. `teacher_forced`: the candidate is given the reference's rings."""
        self._found: list[tuple[int, SlotFault]] = []
        self._frame = 0
        self._geometries = geometries
        self._reference = RingSide()
        self._candidate = RingSide(teacher=self._reference if teacher_forced else None)
        self._references: dict[Key, tuple[int, Sighting]] = {}
        self._candidates: dict[Key, Sighting] = {}

    @property
    def faults(self) -> list[SlotFault]:
        """The first faults, in the reference's execution order."""
        return [fault for _, fault in self._found]

    def reference(self, order: int, sign: Sign) -> None:
        """The reference's next observation; `order` is its place in the execution."""
        sighting = self._reference.observe(sign)
        if sighting is None:
            return
        self._forget(sign.key.unit)
        if partner := self._candidates.pop(sign.key, None):
            self._compare(order, partner, sighting)
        else:
            self._references[sign.key] = (order, sighting)

    def candidate(self, sign: Sign) -> None:
        """The candidate's next observation."""
        sighting = self._candidate.observe(sign)
        if sighting is None:
            return
        if partner := self._references.pop(sign.key, None):
            self._compare(partner[0], sighting, partner[1])
        else:
            self._candidates[sign.key] = sighting

    def _forget(self, frame: int) -> None:
        """Let go of what has found no partner by now: a side that lacks a site leaves the other's waiting."""
        if frame != self._frame:
            self._frame = frame
            self._references = {key: seen for key, seen in self._references.items() if key.unit >= frame - 1}
            self._candidates = {key: seen for key, seen in self._candidates.items() if key.unit >= frame - 1}

    def _compare(self, order: int, actual: Sighting, expected: Sighting) -> None:
        for slot in range(min(len(actual.marks), len(expected.marks))):
            if difference := _difference(slot, actual, expected):
                self._add(order, actual, slot, difference, tail=slot == len(expected.marks) - 1)

    def _add(self, order: int, at: Sighting, slot: int, difference: str, *, tail: bool) -> None:
        kind = f"{self._geometries[at.layer].kind} " if self._geometries else ""
        where = "the tail" if tail else f"slot {slot}"
        fault = SlotFault(
            cache=f"kv_cache.layers.{at.layer}",
            unit=at.key.unit,
            phase=at.key.phase,
            step=at.key.step,
            slot=slot,
            message=f"{kind}layer {at.layer}, {frame_name(at.key)}: {where} {difference}",
        )
        insort(self._found, (order, fault), key=lambda found: found[0])
        del self._found[MOST_FAULTS:]


def _difference(slot: int, actual: Sighting, expected: Sighting) -> str | None:
    """What is wrong with a slot: nothing, where it holds or shows the same as the reference's."""
    held = actual.held[slot] if actual.held else None
    if actual.part == "kv":
        right = expected.held[slot] if expected.held else UNKNOWN
        return None if right in (held, UNKNOWN) else f"holds {held}, expected {right}"
    mark, right_mark = actual.marks[slot], expected.marks[slot]
    if mark == right_mark:
        return None
    words = _WRITTEN if actual.part == "written" else _VISIBLE
    if actual.part == "visible" and mark == ALL and held is not None:
        return f"holds {held}, expected {words[right_mark]}"
    return f"is {words[mark]}, expected {words[right_mark]}"
