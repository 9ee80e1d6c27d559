"""Causal Wan: Wan 2.1 distilled to make a video chunk by chunk, over a rolling window of keys and values."""
