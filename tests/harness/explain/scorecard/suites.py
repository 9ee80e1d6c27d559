"""A few faults of the project's suite, and the same ones under other names in another order."""

from dataclasses import replace

from waypoint_parity.fixtures.faults import SUITE as ALL
from waypoint_parity.harness.explain.scorecard.fault import Suite

_PARTS = ("noise conditioner", "rotation", "velocity", "cache")
_FAULTS = [next(fault for fault in ALL.faults if fault.part == part) for part in _PARTS]
_HARMLESS = ALL.harmless[:1]

FEW = Suite(ALL.reference, ALL.implementation, _FAULTS, _HARMLESS)
# Each called what another one is called.
RENAMED = Suite(
    ALL.reference,
    ALL.implementation,
    [replace(fault, name=other.name) for fault, other in zip(reversed(_FAULTS), _FAULTS, strict=True)],
    [replace(harmless, name="seeded") for harmless in _HARMLESS],
)
NO_SUITE = 3
