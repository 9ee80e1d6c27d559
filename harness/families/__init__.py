"""What is particular to a model: one folder for each family of models."""
