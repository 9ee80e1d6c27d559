"""Drive an implementation through a scenario."""
