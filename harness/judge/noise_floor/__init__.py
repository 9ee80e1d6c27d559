"""The noise floor: measuring it, and judging by it."""
