"""The table of sites: the places of observation, after the vendor's module tree, and all that is known of them."""

from collections.abc import Iterator

from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable, input_row

# In the order of execution.
PARTS = (
    Part("chunk length", "input", "input"),
    Part("input.noise", "input", "input"),
    Part("input.prompt", "input", "input"),
    Part("input.schedule", "input", "input"),
    Part("input.camera", "input", "input"),
    Part("input.action", "input", "input"),
    Part("memory selection", "memory", "cache"),
    Part("memory timestep", "memory", "cache"),
    Part("patch embedding", "head", "transformer"),
    Part("time embedding", "conditioning", "transformer"),
    Part("action embedding", "conditioning", "transformer"),
    Part("text embedding", "text", "transformer"),
    Part("norm", "norm", "transformer"),
    Part("projections", "attention", "transformer"),
    Part("query and key norm", "attention", "transformer"),
    Part("self-attention", "attention", "transformer"),
    Part("camera attention", "attention", "transformer"),
    Part("memory keys", "memory", "cache"),
    Part("cross-attention", "text", "transformer"),
    Part("feed-forward", "feed-forward", "transformer"),
    Part("residual", "residual", "transformer"),
    Part("head", "head", "transformer"),
    Part("velocity", "head", "transformer"),
    Part("sampler", "sampler", "sampler"),
    Part("latent scale", "autoencoder", "decoder", whole=True),
    Part("decoder", "autoencoder", "decoder", whole=True),
    Part("picture", "autoencoder", "after the decoder", whole=True),
)
PLAN, MEMORY, DENOISE, DECODE, VIDEO = "plan", "memory", "denoise", "decode", "video"
TRUNK = (MEMORY, DENOISE)


def site_table(layers: int, up_blocks: int) -> SiteTable:
    """The table of a model of so many blocks, with a decoder of so many."""
    return SiteTable(_rows(layers, up_blocks))


def _rows(layers: int, up_blocks: int) -> Iterator[SiteRow]:
    # Latents by their numbers in the session: 1 where the chunk makes them, or the memory holds them.
    yield input_row("latents", "chunk length", (PLAN,))
    yield SiteRow(
        name="memory.latents", phases=(MEMORY,), part="memory selection", kind=Kind.MASK, stands_for=(MEMORY,)
    )
    yield SiteRow(
        name="memory.timestep", phases=(MEMORY,), part="memory timestep", kind=Kind.MASK, reads=("memory.latents",)
    )
    yield SiteRow(name="memory.clean", phases=(MEMORY,), part="memory selection", reads=("memory.latents",))
    yield input_row("noise", "input.noise", (DENOISE,), once=True)
    yield input_row("timestep", "input.schedule", (DENOISE,), "schedule", stands_for=(DENOISE,))
    yield input_row("viewmats", "input.camera", TRUNK, "camera")
    yield input_row("intrinsics", "input.camera", TRUNK, "camera")
    yield input_row("action", "input.action", TRUNK)
    yield _activation("patch_embedding", "patch embedding", "input.noise", "latent", "memory.clean")
    yield _activation("time_embedder", "time embedding", "input.timestep", "memory.timestep")
    yield _activation("action_embedder", "action embedding", "input.action")
    yield _activation("time_proj", "time embedding", "time_embedder", "action_embedder")
    yield input_row("prompt_emb", "input.prompt", TRUNK)
    yield _activation("text_embedder", "text embedding", "input.prompt_emb")
    entering = "patch_embedding"
    for layer in range(layers):
        yield from _block(layer, entering)
        entering = f"blocks.{layer}"
    yield SiteRow(
        name="proj_out",
        phases=(DENOISE,),
        part="head",
        reads=(entering, "time_embedder", "action_embedder"),
    )
    yield SiteRow(name="velocity", phases=(DENOISE,), part="velocity", reads=("proj_out",))
    yield SiteRow(
        name="latent",
        phases=(DENOISE,),
        part="sampler",
        kind=Kind.LATENT,
        reads=("velocity", "input.noise", "input.timestep"),
        around=("input.timestep",),
        carries=("input.schedule",),
    )
    yield SiteRow(
        name="unscaled",
        phases=(DECODE,),
        part="latent scale",
        reads=("latent",),
        once=True,
        takes_final=True,
        stands_for=(DECODE,),
    )
    entering = "unscaled"
    for name in ("conv_in", "mid_block", *(f"up_blocks.{number}" for number in range(up_blocks)), "conv_out"):
        site = f"decoder.{name}"
        yield SiteRow(name=site, phases=(DECODE,), part="decoder", reads=(entering,))
        entering = site
    yield SiteRow(name="picture", phases=(VIDEO,), part="picture", kind=Kind.PICTURE, reads=(entering,))


def _block(layer: int, entering: str) -> Iterator[SiteRow]:
    block, mod = f"blocks.{layer}", "time_proj"
    own, cross = f"{block}.attn1", f"{block}.attn2"
    camera = ("input.viewmats", "input.intrinsics")
    held = (f"memory.{layer}.k", f"memory.{layer}.v")
    made = (f"{own}.norm_q", f"{own}.norm_k", f"{own}.to_v")
    yield _activation(f"{block}.norm1", "norm", entering)
    yield from (_activation(f"{own}.to_{name}", "projections", f"{block}.norm1", mod) for name in "qkv")
    yield from (_activation(f"{own}.norm_{name}", "query and key norm", f"{own}.to_{name}") for name in "qk")
    # What the two last projections read: rotated by the position in the clip, and turned by the camera.
    yield _activation(f"{own}.attended", "self-attention", *made, *held)
    yield _activation(f"{own}.attended_camera", "camera attention", *made, *held, *camera)
    # [1,H,T,2D]: what was rotated beside what was turned by the camera.
    for name, read in (("k", f"{own}.norm_k"), ("v", f"{own}.to_v")):
        yield SiteRow(
            name=f"memory.{layer}.{name}",
            phases=(MEMORY,),
            part="memory keys",
            kind=Kind.CACHE,
            reads=(read, *camera),
        )
    yield _activation(own, "projections", f"{own}.attended", f"{own}.attended_camera")
    stream: tuple[str, ...] = (entering, own, mod)
    yield _activation(f"{block}.norm2", "norm", *stream)
    yield _activation(f"{cross}.to_q", "cross-attention", f"{block}.norm2")
    yield from (_activation(f"{cross}.to_{name}", "cross-attention", "text_embedder") for name in "kv")
    yield from (_activation(f"{cross}.norm_{name}", "cross-attention", f"{cross}.to_{name}") for name in "qk")
    yield _activation(f"{cross}.attended", "cross-attention", f"{cross}.norm_q", f"{cross}.norm_k", f"{cross}.to_v")
    yield _activation(cross, "cross-attention", f"{cross}.attended")
    stream = (*stream, cross)
    yield _activation(f"{block}.norm3", "norm", *stream)
    yield _activation(f"{block}.ffn", "feed-forward", f"{block}.norm3", mod)
    yield _activation(block, "residual", *stream, f"{block}.ffn")


def _activation(name: str, part: str, *reads: str) -> SiteRow:
    """A site of the transformer, which every pass of it shows."""
    return SiteRow(name=name, phases=TRUNK, part=part, reads=reads)
