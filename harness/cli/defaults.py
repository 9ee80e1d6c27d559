"""What commands run on by default: two small checkpoints, rendered walks, and the faults of the scorecard."""

from importlib import resources
from pathlib import Path

_FIXTURES = Path(str(resources.files("waypoint_parity.fixtures")))
CHECKPOINT = _FIXTURES / "world" / "checkpoint"
SCENARIO = _FIXTURES / "scenarios" / "right.safetensors"
# Seeded with an image.
IMAGE_SCENARIO = _FIXTURES / "scenarios" / "left.safetensors"
# Small and random, of Waypoint 1: `quick`.
GOLDEN = _FIXTURES / "golden" / "base"
# As module:NAME.
FAULTS = "waypoint_parity.fixtures.faults:SUITE"
