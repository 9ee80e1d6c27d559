"""The exact shadow: what an implementation would have computed without any rounding, and what rounding may do."""
