"""Kinds of fault that ports of Waypoint have, by the part that they show in: text beside a measurement."""

from waypoint_parity.harness.families.waypoint.kinds.attention import ATTENTION
from waypoint_parity.harness.families.waypoint.kinds.conditioning import CONDITIONING
from waypoint_parity.harness.families.waypoint.kinds.inputs import INPUTS
from waypoint_parity.harness.families.waypoint.kinds.picture import PICTURE

# In the order of execution. Of two kinds that fit equally well the first one is listed first.
KINDS = (*INPUTS, *CONDITIONING, *ATTENTION, *PICTURE)
