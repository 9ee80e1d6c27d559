"""Kinds of fault of what conditions the blocks: noise level, controls, prompt; and of their MLPs and sums."""

from waypoint_parity.harness.run.family import FaultKind

CONDITIONING = (
    FaultKind(
        ("noise conditioner",),
        "sigma not rounded to the model's dtype",
        "the dtype of sigma where it is embedded: the factor 1000 makes its rounding visible",
        extent=("from the second step on",),
        norm="kept",
    ),
    FaultKind(
        ("noise conditioner",),
        "sigma not multiplied by 1000",
        "the phase: sigma * 1000 * frequency; with sigma 0, in cache passes, there is nothing to see",
        extent=("right at sigma 0",),
    ),
    FaultKind(
        ("noise conditioner",),
        "cosine and sine halves exchanged",
        "the order of the features: all sines, then all cosines",
        onset=("clock 0", "frame 0"),
        extent=("every pass",),
    ),
    FaultKind(
        ("noise conditioner",),
        "noise conditioner computed in bf16",
        "that frequencies, phases, features and the MLP are fp32, with one cast at the end",
        onset=("clock 0", "frame 0"),
        extent=("rounding-sized",),
        norm="kept",
    ),
    FaultKind(
        ("noise conditioner",),
        "another table of frequencies",
        "the exponents -i/(n-1) or -i/n, base 10000, how the table is computed: phases reach 1000 radians",
        extent=("right at sigma 0",),
    ),
    FaultKind(
        ("conditioning heads",),
        "shared conditioning matrices filled for the first block only",
        "the loader: the same six matrices are stored again for every block, or tied; none may keep its initial value",
        layers=("all but the first",),
    ),
    FaultKind(
        ("conditioning heads",),
        "modulation slots exchanged between attention and MLP, or scale with bias",
        "the order scale, bias, gate of the attention, then of the MLP, where projections are stacked and split",
        norm="kept",
    ),
    FaultKind(
        ("conditioning heads",),
        "silu missing, or the block's bias added after it",
        "c = silu(cond + bias_in) before the six projections",
        layers=("every",),
        norm="changed",
    ),
    FaultKind(
        ("projections", "mlp", "residual"),
        "modulation slots exchanged where they are consumed, or 1 + scale read as scale",
        "rms_norm(x) * (1 + s) + b with the slots of this branch; the gate multiplies the branch, not the stream",
        layers=("every",),
        norm="changed",
    ),
    FaultKind(
        ("residual",),
        "a branch added without its gate, or in another order",
        "x + g0 * attention, then prompt, then control, then x + g1 * mlp; prompt and control have no gate",
    ),
    FaultKind(
        ("control embedding",),
        "scroll dropped, or not reduced to its sign",
        "the last element of the control vector: the sign of the scroll",
        onset=("first scroll",),
    ),
    FaultKind(
        ("control embedding",),
        "controls in another order, such as buttons before mouse",
        "the concatenation: mouse x, mouse y, buttons, scroll sign",
        onset=("first control", "frame 0", "image"),
    ),
    FaultKind(
        ("control embedding",),
        "null embedding of training used where controls are idle",
        "that the stored null embeddings are not used at inference",
        onset=("frame 0", "image"),
        norm="changed",
    ),
    FaultKind(
        ("noise conditioner", "control embedding"),
        "features or MLP of another form: sqrt(2) left out, GELU for SiLU",
        "the factor of the features, the activation between fc1 and fc2, that there is no bias",
        norm="changed",
    ),
    FaultKind(
        ("control fusion",),
        "halves of the merged fusion weight exchanged, or one left at its initial value",
        "fc1 = [Wx | Wc] along its input axis, the x half first; both shards are loaded",
    ),
    FaultKind(
        ("control fusion",),
        "input or control embedding not normed",
        "fusion(rms_norm(x), rms_norm(control))",
        norm="changed",
    ),
    FaultKind(
        ("prompt attention",),
        "padding masked out of the attention to the prompt",
        "that no mask is given: padded keys are zero, score 0, and take their share of the softmax",
        controls=("only with padding",),
    ),
    FaultKind(
        ("prompt attention",),
        "queries and keys of the attention to the prompt not normed",
        "rms_norm over the head width of q and k, after the projections",
        onset=("clock 0", "frame 0"),
        controls=("unchanged by padding",),
    ),
    FaultKind(
        ("prompt attention",),
        "prompt or stream not normed, or heads of another width",
        "attention(rms_norm(x), rms_norm(prompt)); width E in heads of width D, scale 1/sqrt(D)",
    ),
    FaultKind(
        ("mlp", "conditioning heads", "control fusion"),
        "one shard of a merged weight left at its initial value",
        "that the loader reports every parameter that nothing was loaded into",
        layers=("first only", "all but the first"),
    ),
    FaultKind(
        ("mlp",),
        "another activation",
        "silu between fc1 and fc2; not GELU, and no gated half",
        layers=("every",),
    ),
    FaultKind(
        ("mlp", "projections", "output norm", "prompt attention", "control fusion"),
        "another epsilon of the norm, or the norm in bf16",
        "rms_norm without learned weight, eps of the fp32 type (1.19e-7) for bf16 too",
        extent=("rounding-sized",),
    ),
)
