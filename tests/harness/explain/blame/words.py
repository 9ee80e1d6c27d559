"""The words of a signature of Waypoint: those that any model has, and its own."""

# Of the model: its generation.
MODEL = {"Waypoint 1", "Waypoint 1.5", "two clocks"}
# Of the first faulty observation.
ONSET = {
    "prompt",
    "image",
    "frame 0",
    "frame 1",
    "clock 0",
    "clock 1",
    "first pass",
    "cache pass",
    "decode",
    "local ring full",
    "dilated ring full",
    "first skipped frame",
    "first control",
    "first scroll",
    "step beyond the schedule",
    "no distance",
}
# Of all of them together: passes, sites, size.
EXTENT = {
    "every pass",
    "from the second step on",
    "last step only",
    "right at sigma 0",
    "rounding-sized",
    "queries only",
    "keys only",
    "values only",
    "keys and values",
    "gates only",
    "buttons only",
    "mouse only",
    "scroll only",
    "mask only",
    "visibility only",
    "first convolution only",
    "first convolution right",
    "last convolution only",
}
# Of the blocks that have the part; any others are listed.
LAYERS = {
    "none",
    "every",
    "local",
    "global",
    "all but the first",
    "all but the first two",
    "first only",
}
# Of control experiments.
CONTROLS = {
    "only with padding",
    "unchanged by padding",
    "only after the first frame",
    "without local error at frame 0",
}
