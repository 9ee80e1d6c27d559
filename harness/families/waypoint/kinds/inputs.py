"""Kinds of fault of what a session is given: prompt, image, controls, noise, schedule, clock."""

from waypoint_parity.harness.run.family import FaultKind

INPUTS = (
    FaultKind(
        ("input.prompt",),
        "embeddings of padding not zeroed",
        "whether positions that the pad mask marks are set to zero before the prompt is handed to the model",
        controls=("only with padding",),
    ),
    FaultKind(
        ("input.prompt",),
        "pad mask inverted, or of another length",
        "whether true means padding; what the tokenizer calls an attention mask is the opposite",
        extent=("mask only",),
    ),
    FaultKind(
        ("input.prompt",),
        "another text encoder, tokenizer setting or cleaning of the text",
        "the encoder's revision, its dtype, the padded length, how whitespace and quotes are cleaned",
    ),
    FaultKind(
        ("input.image",),
        "seed image with its channels or its rows and columns exchanged, or already scaled",
        "RGB or BGR, channel first or last, uint8 or float, which side is resized first",
    ),
    FaultKind(
        ("input.controls",),
        "each frame reads the controls of the frame before",
        "when a frame's controls are copied: an object that is changed in place, or a queue that is one frame behind",
        onset=("frame 1", "first control"),
    ),
    FaultKind(
        ("input.controls",),
        "scroll dropped, or its sign taken twice",
        "whether the wheel reaches the model, and who takes its sign",
        extent=("scroll only",),
    ),
    FaultKind(
        ("input.controls",),
        "mouse scaled, clipped or with an axis exchanged",
        "the unit of mouse movement, the direction of y, any clipping",
        extent=("mouse only",),
    ),
    FaultKind(
        ("input.controls",),
        "button codes mapped to other indices",
        "the table from keys to button indices, and whether it counts from 0",
        extent=("buttons only",),
    ),
    FaultKind(
        ("input.controls",),
        "controls of another frame, or in another layout",
        "which frame's controls each frame is given, and in which order they are unpacked",
    ),
    FaultKind(
        ("input.noise",),
        "one generator for the whole session instead of one per frame",
        "how the noise is seeded: seed + frame index for every frame, or one generator drawn from again and again",
        onset=("frame 1",),
    ),
    FaultKind(
        ("input.noise",),
        "noise drawn once for the whole session and sliced per frame, or seeded otherwise",
        "the shape of each draw, the seed of the first, the generator's device: the same seed gives another noise",
        onset=("frame 0",),
        norm="kept",
    ),
    FaultKind(
        ("input.noise",),
        "noise scaled, for example by the first sigma",
        "whether anything is multiplied to the noise before the first step",
        onset=("frame 0",),
        norm="changed",
    ),
    FaultKind(
        ("input.schedule",),
        "the final 0 of the schedule run as a denoise step",
        "the loop over the schedule: S + 1 sigmas are S steps; the last one is the cache pass's",
        onset=("step beyond the schedule",),
        extent=("from the second step on",),
    ),
    FaultKind(
        ("input.schedule",),
        "a schedule with a step fewer, its sigmas accepted",
        "where the sigmas come from: the checkpoint's config or a default; how many steps there are",
        onset=("no distance",),
        extent=("last step only",),
    ),
    FaultKind(
        ("input.schedule",),
        "the last step run at another sigma, such as the final 0",
        "the loop over the schedule: each step runs at the sigma that it begins with",
        extent=("last step only",),
    ),
    FaultKind(
        ("input.schedule",),
        "the schedule of another release instead of the checkpoint's",
        "where the sigmas come from: the checkpoint's config or a default; how many steps there are",
        extent=("from the second step on",),
    ),
    FaultKind(
        ("input.schedule",),
        "sigmas in another dtype: fp32 in a bf16 run, or rounded in an fp32 run",
        "the dtype in which sigmas and their differences are kept: the model's",
        extent=("rounding-sized",),
    ),
    FaultKind(
        ("input.schedule",),
        "cache pass not run at sigma 0",
        "the sigma of the pass that writes the history: 0, not the last one of the denoise steps",
        onset=("cache pass", "image"),
    ),
    FaultKind(
        ("input.schedule",),
        "another noise level: timesteps instead of sigmas, or a shifted schedule",
        "the unit of what the model is given, any time shift, the order of the values",
    ),
    FaultKind(
        ("input.clock",),
        "seed image not counted by the frame clock",
        "whether the clock is 1 for the first generated frame after an image",
        onset=("clock 1",),
    ),
    FaultKind(
        ("input.clock",),
        "frame clock off: counted per pass, not reset, or beginning at 1",
        "where the clock is advanced, once per frame after its cache pass, and where it is reset",
    ),
)
