"""What is fast: Waypoint reimplemented natively, written from the specification alone."""
