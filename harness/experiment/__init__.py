"""A sweep as an experiment: factors, cells addressed by their content, executors, effects."""
