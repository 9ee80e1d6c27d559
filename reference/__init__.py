"""What is right: the plain model of the specification, and the adapters of the official implementations."""
