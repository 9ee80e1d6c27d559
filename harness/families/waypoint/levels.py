"""Levels of Waypoint's factors, by name. Imports no torch: the command line offers them while it parses."""

from typing import Literal

NoisePolicy = Literal["per-frame", "global", "sliced"]
PromptMask = Literal["none", "zeroed", "unzeroed", "all"]
