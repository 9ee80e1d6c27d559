"""FastVideo's Waypoint port, driven as it stands: its transformer, its ring cache and its autoencoder."""
