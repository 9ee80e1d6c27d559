"""The second door: what Python code and pytest use. Its names are those of the package `waypoint_parity`."""
