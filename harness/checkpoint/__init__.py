"""Where weights lie, and whether they are whole."""
