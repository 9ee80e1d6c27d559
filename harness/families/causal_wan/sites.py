"""The table of sites: the places of observation, after the official module tree, and all that is known of them."""

from collections.abc import Iterator

from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable, input_row

# In the order of execution.
PARTS = (
    Part("input.noise", "input", "input"),
    Part("input.schedule", "input", "input"),
    Part("input.prompt", "input", "input"),
    Part("renoising", "sampler", "sampler"),
    Part("clean pass", "sampler", "sampler"),
    Part("patch embedding", "head", "transformer"),
    Part("time embedding", "conditioning", "transformer"),
    Part("time projection", "conditioning", "transformer"),
    Part("text embedding", "text", "transformer"),
    Part("norm", "norm", "transformer"),
    Part("projections", "attention", "transformer"),
    Part("query and key norm", "attention", "transformer"),
    Part("rotation", "attention", "transformer"),
    Part("cache", "cache", "cache"),
    Part("self-attention", "attention", "transformer"),
    Part("text cache", "text", "cache"),
    Part("cross-attention", "text", "transformer"),
    Part("feed-forward", "feed-forward", "transformer"),
    Part("residual", "residual", "transformer"),
    Part("head", "head", "transformer"),
    Part("velocity", "head", "transformer"),
    Part("sampler", "sampler", "sampler"),
)
# Every step makes an estimate of the clean latents; then they go through the model once more, to be remembered.
DENOISE, CLEAN = "denoise", "clean"
_DENOISE, _CLEAN, _BOTH = (DENOISE,), (CLEAN,), (DENOISE, CLEAN)


def site_table(layers: int) -> SiteTable:
    """The table of a model of so many blocks."""
    return SiteTable(_rows(layers))


def _rows(layers: int) -> Iterator[SiteRow]:
    # Each step has noise of its own: the first begins with it, the others mix it into the estimate of the step before.
    yield input_row("noise", "input.noise", _DENOISE)
    yield input_row("sigma", "input.schedule", _DENOISE, "schedule")
    yield SiteRow(name="entering", phases=_DENOISE, part="renoising", reads=("input.noise", "input.sigma", "latent"))
    yield SiteRow(
        name="entering",
        phases=_CLEAN,
        part="clean pass",
        reads=("latent",),
        takes_final=True,
        carries=("input.schedule",),
        stands_for=_CLEAN,
    )
    yield input_row("timestep", "input.schedule", _BOTH, "schedule", stands_for=_DENOISE)
    yield _activation("patch_embedding", "patch embedding", "entering")
    yield _activation("time_embedding", "time embedding", "input.timestep")
    yield _activation("time_projection", "time projection", "time_embedding")
    yield input_row("prompt_emb", "input.prompt", _BOTH)
    yield _activation("text_embedding", "text embedding", "input.prompt_emb")
    stream = "patch_embedding"
    for layer in range(layers):
        yield from _block(layer, stream)
        stream = f"blocks.{layer}"
    yield _activation("head", "head", stream, "time_embedding")
    yield _activation("velocity", "velocity", "head")
    yield SiteRow(
        name="latent",
        phases=_DENOISE,
        part="sampler",
        kind=Kind.LATENT,
        reads=("velocity", "entering", "input.sigma"),
        # A session knows its schedule by itself, wherever the sites that show it are patched.
        around=("input.sigma",),
        carries=("input.schedule",),
        taught=True,
    )


def _block(layer: int, entering: str) -> Iterator[SiteRow]:
    block, cache, mod = f"blocks.{layer}", f"kv_cache.layers.{layer}", "time_projection"
    own, cross = f"{block}.self_attn", f"{block}.cross_attn"
    yield _activation(f"{block}.norm1", "norm", entering)
    yield from (_activation(f"{own}.{name}", "projections", f"{block}.norm1", mod) for name in "qkv")
    yield from (_activation(f"{own}.norm_{name}", "query and key norm", f"{own}.{name}") for name in "qk")
    yield from (_activation(f"{own}.{name}_rope", "rotation", f"{own}.norm_{name}") for name in "qk")
    # Keys and values that the pass attends to, latent by latent, once the oldest ones have made room for its own.
    yield _activation(f"{own}.window", "cache", f"{own}.k_rope", f"{own}.v", f"{cache}.kv", f"{cache}.ends")
    yield _activation(f"{own}.attended", "self-attention", f"{own}.q_rope", f"{own}.window")
    # Where the cache ends, of all latents and of those that it holds; the next pass writes by these numbers.
    yield SiteRow(name=f"{cache}.ends", phases=_BOTH, part="cache", kind=Kind.MASK)
    yield SiteRow(
        name=f"{cache}.kv",
        phases=_CLEAN,
        part="cache",
        kind=Kind.CACHE,
        reads=(f"{own}.window", f"{cache}.ends"),
        taught=True,
    )
    yield _activation(own, "projections", f"{own}.attended")
    stream: tuple[str, ...] = (entering, own, mod)
    yield _activation(f"{block}.norm3", "norm", *stream)
    yield _activation(f"{cross}.q", "cross-attention", f"{block}.norm3")
    yield _activation(f"{cross}.norm_q", "cross-attention", f"{cross}.q")
    # Made of the prompt in the first pass of a session, and kept.
    yield from (_activation(f"{cross}.{name}", "text cache", "text_embedding") for name in ("keys", "values"))
    yield _activation(f"{cross}.attended", "cross-attention", f"{cross}.norm_q", f"{cross}.keys", f"{cross}.values")
    yield _activation(cross, "cross-attention", f"{cross}.attended")
    stream = (*stream, cross)
    yield _activation(f"{block}.norm2", "norm", *stream)
    yield _activation(f"{block}.ffn", "feed-forward", f"{block}.norm2", mod)
    yield _activation(block, "residual", *stream, f"{block}.ffn")


def _activation(name: str, part: str, *reads: str) -> SiteRow:
    """A site of the transformer, which every pass shows."""
    return SiteRow(name=name, phases=_BOTH, part=part, reads=reads)
