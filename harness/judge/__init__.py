"""Bounds and verdicts."""
