"""Baselines: accepted dumps, kept under a name, that later runs are held against."""
