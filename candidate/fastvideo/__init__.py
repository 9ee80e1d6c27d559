"""The adapter of FastVideo's Waypoint port, which runs unmodified: transformer, ring cache and autoencoder."""
