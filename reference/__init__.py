"""What is right: the plain model of the specification, and adapters of official code."""
