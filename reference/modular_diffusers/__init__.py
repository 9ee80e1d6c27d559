"""Waypoint as a modular pipeline of diffusers, driven through the pipeline's own call."""
