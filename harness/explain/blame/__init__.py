"""Which site causes what: local errors, parts exchanged between two implementations, causes with their share."""
