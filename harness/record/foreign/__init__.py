"""Dumps that other tools write, read as records and tensors: one file for each format, and what they share."""
