"""The key/value rings of two implementations, told slot by slot."""
