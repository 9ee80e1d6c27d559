"""Kinds of fault between the transformer and the picture: head, sampler, autoencoder, pixels."""

from waypoint_parity.harness.run.family import FaultKind

PICTURE = (
    FaultKind(
        ("patchify",),
        "patches read in another order, or tokens column by column",
        "a strided convolution over the latent, tokens row by row",
    ),
    FaultKind(
        ("output norm",),
        "modulation of the output norm without silu",
        "[a, b] = fc(silu(cond)); the silu after the norm is another one",
        extent=("every pass",),
    ),
    FaultKind(
        ("output norm",),
        "scale and bias of the output norm exchanged, or 1 + scale read as scale",
        "rms_norm(x) * (1 + a) + b, a being the first half of the projection",
    ),
    FaultKind(
        ("velocity",),
        "patches written in another order",
        "the output axis of unpatchify is (C, ph, pw), not (ph, pw, C)",
        norm="kept",
    ),
    FaultKind(
        ("velocity",),
        "guidance combined though the model is distilled",
        "that the model runs once per step, and nothing is extrapolated from an unconditional run",
        norm="changed",
    ),
    FaultKind(
        ("velocity",),
        "silu missing before the last projection, or its bias",
        "unpatchify(silu(y)), with the bias of unpatchify",
    ),
    FaultKind(
        ("sampler",),
        "velocity taken for the clean latent, or for noise",
        "x + (sigma_next - sigma) * v: a flow model's velocity, no conversion",
        onset=("frame 0",),
        extent=("every pass",),
    ),
    FaultKind(
        ("sampler",),
        "step with another sign or size",
        "the difference of consecutive sigmas, negative, in the model's dtype",
        onset=("frame 0",),
    ),
    FaultKind(
        ("sampler",),
        "latents pulled towards the statistics of an earlier frame",
        "that nothing is normalised, clamped or blended between frames",
        onset=("frame 1",),
    ),
    FaultKind(
        ("sampler",),
        "latent accumulated in another precision",
        "the dtype of the latent, of the step size and of their product",
        extent=("rounding-sized",),
    ),
    FaultKind(
        ("sampler",),
        "something done to the latent after the last step",
        "what stands between the last step and the cache pass: clamping, renormalising, a cast",
        extent=("last step only",),
    ),
    FaultKind(
        ("image latent",),
        "latent scaled, sampled from a variance, or in another layout",
        "the encoder's mean as it is: no factor, no noise; [C, height, width]",
    ),
    FaultKind(
        ("encoder",),
        "image prepared otherwise",
        "pixels * 2 - 1, RGB, then bicubic to 512 x 512 without antialiasing, corners not aligned",
        extent=("first convolution only",),
    ),
    FaultKind(
        ("encoder",),
        "mean over channel groups in another order, or without its factor",
        "channels split as [group, latent], mean over the groups, times sqrt(c / latent)",
        extent=("last convolution only",),
    ),
    FaultKind(
        ("decoder",),
        "latent scaled, as for another autoencoder",
        "that no scale or shift factor is applied: 0.18215 belongs to another model",
        extent=("first convolution only",),
        norm="changed",
    ),
    FaultKind(
        ("decoder",),
        "channels repeated in another order, or without their factor",
        "every channel r times in a row, times 1 / sqrt(r)",
        extent=("first convolution only",),
    ),
    FaultKind(
        ("decoder",),
        "resize before the last convolution",
        "the last convolution at 512 x 512, then the resize to 360 x 640",
        extent=("last convolution only",),
    ),
    FaultKind(
        ("decoder",),
        "bicubic with antialiasing or aligned corners",
        "interpolate(mode='bicubic') alone: antialias and align_corners are false",
        extent=("first convolution right",),
    ),
    FaultKind(
        ("decoder",),
        "first latent decoded without what comes before it, or its seed latent not decoded",
        "that the first latent after a reset is fed 3 times more, its pictures dropped; that a seed latent is decoded",
        onset=("frame 0", "decode"),
        extent=("Waypoint 1.5",),
        course="fades",
    ),
    FaultKind(
        ("encoder", "decoder"),
        "memory of another frame: kept over a reset, left out, or of the block's output",
        "each block sees its own previous input of this stream, zeros at first; reset() empties all of them",
        extent=("Waypoint 1.5",),
    ),
    FaultKind(
        ("encoder", "decoder"),
        "frames of a latent in another order, or joined and split along channels otherwise",
        "the earlier frame has the first channels, where frames are joined and where one is split",
        extent=("Waypoint 1.5",),
    ),
    FaultKind(
        ("encoder", "decoder"),
        "weight norm left out, or over another axis",
        "weight = magnitude * direction / ||direction||, per output channel",
        extent=("Waypoint 1",),
    ),
    FaultKind(
        ("encoder", "decoder"),
        "stages of another order, grouping or pixel shuffle",
        "the order of stages, the number of groups, pixel-shuffle and unshuffle by 2, the slope 0.01 of LeakyReLU",
        extent=("Waypoint 1",),
    ),
    FaultKind(
        ("picture",),
        "pixels in [-1,1] clamped to [0,1] without being shifted",
        "(y / 2 + 0.5) clamped to [0,1], before it is scaled by 255",
        onset=("decode",),
        extent=("Waypoint 1",),
    ),
    FaultKind(
        ("picture",),
        "pixels scaled by 255 twice, wrapping around in uint8",
        "where values become levels, and that they are clamped before the cast",
        onset=("decode",),
    ),
    FaultKind(
        ("picture",),
        "levels cut off instead of rounded",
        "round before the cast to uint8",
        extent=("rounding-sized",),
    ),
    FaultKind(
        ("picture",),
        "channels or rows and columns exchanged",
        "RGB, channel last, the first 3 channels, height before width",
        norm="kept",
    ),
)
