"""Playing: two implementations, driven by the same keys, side by side in a local page."""
