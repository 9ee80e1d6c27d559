"""Results as lines for a terminal: one file for each kind of result."""
