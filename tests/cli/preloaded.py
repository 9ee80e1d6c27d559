"""What every command imports and digests before it looks at a session, done once for all that are forked."""

import importlib

from waypoint_parity.harness.sweep.identity import INSTRUMENT
from waypoint_parity.harness.sweep.source import module_digest

SIDES = (
    "waypoint_parity.harness.families.waypoint.family",
    "waypoint_parity.reference.eager.adapter",
    "waypoint_parity.candidate.adapter",
)

for module in (INSTRUMENT, *SIDES, "waypoint_parity.harness.judge.diff", "waypoint_parity.reports.documents"):
    importlib.import_module(module)
for module in (INSTRUMENT, *SIDES):
    module_digest(module)
