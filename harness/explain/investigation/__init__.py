"""What becomes of the picture: how a divergence looks, and where in the pipeline it was born."""
