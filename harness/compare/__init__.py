"""Pair what belongs together, and say how far apart it is. Nothing here judges."""
