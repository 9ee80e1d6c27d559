"""What is judged: Waypoint reimplemented natively, from the specification alone, and adapters of other ports."""
