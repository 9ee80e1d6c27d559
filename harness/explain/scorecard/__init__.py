"""Measuring the instrument itself: known faults, seeded one by one and together, and what it says of them."""
