"""Waypoint, Overworld's world model: frame after frame from noise, controls and a prompt, with key/value rings."""
