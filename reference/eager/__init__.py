"""Waypoint in plain PyTorch: the whole model, written to be read beside the specification, one formula a line."""
