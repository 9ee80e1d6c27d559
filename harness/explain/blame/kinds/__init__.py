"""Kinds of fault that ports of a world model have, by the part that they show in, as tables."""
