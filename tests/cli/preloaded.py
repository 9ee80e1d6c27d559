"""What a command does before it looks at its arguments, done once for all that are forked: imports, digests of our code."""

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.families.waypoint.family import Waypoint
from waypoint_parity.harness.judge import diff as _diff
from waypoint_parity.harness.sweep.identity import INSTRUMENT
from waypoint_parity.harness.sweep.source import module_digest
from waypoint_parity.reference.eager.adapter import EagerAdapter
from waypoint_parity.reports import documents as _documents

for module in (INSTRUMENT, *(each.__module__ for each in (Waypoint, EagerAdapter, CandidateAdapter))):
    module_digest(module)
