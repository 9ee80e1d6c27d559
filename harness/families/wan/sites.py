"""The table of sites: the places of observation, after the official module tree, and all that is known of them."""

from collections.abc import Iterator

from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable, input_row

# In the order of execution.
PARTS = (
    Part("input.noise", "input", "input"),
    Part("input.prompt", "input", "input"),
    Part("input.schedule", "input", "input"),
    Part("patch embedding", "head", "transformer"),
    Part("time embedding", "conditioning", "transformer"),
    Part("time projection", "conditioning", "transformer"),
    Part("text embedding", "text", "transformer"),
    Part("norm", "norm", "transformer"),
    Part("projections", "attention", "transformer"),
    Part("query and key norm", "attention", "transformer"),
    Part("self-attention", "attention", "transformer"),
    Part("cross-attention", "text", "transformer"),
    Part("feed-forward", "feed-forward", "transformer"),
    Part("residual", "residual", "transformer"),
    Part("head", "head", "transformer"),
    Part("velocity", "head", "transformer"),
    Part("guidance", "sampler", "sampler"),
    Part("sampler", "sampler", "sampler"),
    Part("latent scale", "autoencoder", "decoder", whole=True),
    Part("decoder", "autoencoder", "decoder", whole=True),
    Part("picture", "autoencoder", "after the decoder", whole=True),
)
COND, UNCOND = "cond", "uncond"
BRANCHES = (COND, UNCOND)
DENOISE, DECODE, VIDEO = "denoise", "decode", "video"
# Between the first and the last layer of the decoder, in order.
DECODER_LAYERS = (*(f"middle.{number}" for number in range(3)), *(f"upsamples.{number}" for number in range(15)))
_DENOISE, _DECODE = (DENOISE,), (DECODE,)


def site_table(layers: int) -> SiteTable:
    """The table of a model of so many blocks. Every model has the same decoder."""
    return SiteTable(_rows(layers))


def _rows(layers: int) -> Iterator[SiteRow]:
    yield input_row("noise", "input.noise", _DENOISE, once=True)
    yield input_row("timestep", "input.schedule", _DENOISE, "schedule", branched=True, stands_for=_DENOISE)
    yield _activation("patch_embedding", "patch embedding", "input.noise", "latent")
    yield _activation("time_embedding", "time embedding", "input.timestep")
    yield _activation("time_projection", "time projection", "time_embedding")
    yield input_row("prompt_emb", "input.prompt", _DENOISE, branched=True)
    yield _activation("text_embedding", "text embedding", "input.prompt_emb")
    entering = "patch_embedding"
    for layer in range(layers):
        yield from _block(f"blocks.{layer}", entering)
        entering = f"blocks.{layer}"
    yield _activation("head", "head", entering, "time_embedding")
    yield _activation("velocity", "velocity", "head")
    yield input_row("sigma", "input.schedule", _DENOISE, "schedule")
    # No module returns it: an implementation may show it only where its sampler can be watched.
    yield SiteRow(name="guided", phases=_DENOISE, part="guidance", reads=("velocity",), optional=True)
    yield SiteRow(
        name="latent",
        phases=_DENOISE,
        part="sampler",
        kind=Kind.LATENT,
        reads=("guided", "velocity", "input.noise", "input.sigma"),
        # A session knows its schedule by itself, wherever the sites that show it are patched.
        around=("input.sigma",),
        carries=("input.schedule",),
    )
    yield SiteRow(
        name="unscaled",
        phases=_DECODE,
        part="latent scale",
        reads=("latent",),
        once=True,
        takes_final=True,
        carries=("input.schedule",),
        stands_for=_DECODE,
    )
    yield SiteRow(name="conv2", phases=_DECODE, part="decoder", reads=("unscaled",), once=True)
    entering = "conv2"
    for name in ("conv1", *DECODER_LAYERS, "head"):
        site = f"decoder.{name}"
        yield SiteRow(name=site, phases=_DECODE, part="decoder", reads=(entering,))
        entering = site
    yield SiteRow(name="picture", phases=_DECODE, part="picture", kind=Kind.PICTURE, reads=(entering,))
    # What a pipeline returns in the end: only a whole one shows it.
    yield SiteRow(name="video", phases=(VIDEO,), part="picture", reads=(entering,), optional=True)


def _block(block: str, entering: str) -> Iterator[SiteRow]:
    mod = "time_projection"
    own, cross = f"{block}.self_attn", f"{block}.cross_attn"
    yield _activation(f"{block}.norm1", "norm", entering)
    yield from (_activation(f"{own}.{name}", "projections", f"{block}.norm1", mod) for name in "qkv")
    yield from (_activation(f"{own}.norm_{name}", "query and key norm", f"{own}.{name}") for name in "qk")
    # What the last projection reads: queries and keys are rotated, then attended with.
    yield _activation(f"{own}.attended", "self-attention", f"{own}.norm_q", f"{own}.norm_k", f"{own}.v")
    yield _activation(own, "projections", f"{own}.attended")
    stream: tuple[str, ...] = (entering, own, mod)
    yield _activation(f"{block}.norm3", "norm", *stream)
    yield _activation(f"{cross}.q", "cross-attention", f"{block}.norm3")
    yield from (_activation(f"{cross}.{name}", "cross-attention", "text_embedding") for name in "kv")
    yield from (_activation(f"{cross}.norm_{name}", "cross-attention", f"{cross}.{name}") for name in "qk")
    yield _activation(f"{cross}.attended", "cross-attention", f"{cross}.norm_q", f"{cross}.norm_k", f"{cross}.v")
    yield _activation(cross, "cross-attention", f"{cross}.attended")
    stream = (*stream, cross)
    yield _activation(f"{block}.norm2", "norm", *stream)
    yield _activation(f"{block}.ffn", "feed-forward", f"{block}.norm2", mod)
    yield _activation(block, "residual", *stream, f"{block}.ffn")


def _activation(name: str, part: str, *reads: str) -> SiteRow:
    """A site of the transformer, which every branch of a step shows."""
    return SiteRow(name=name, phases=_DENOISE, part=part, reads=reads, branched=True)
