"""The table of sites: the places of observation, after the official module tree, and all that is known of them."""

from collections.abc import Iterator
from dataclasses import replace

from waypoint_parity.harness.families.waypoint.config import (
    TAEHV_DECODER_STAGES,
    TAEHV_ENCODER_STAGES,
    AutoencoderConfig,
    TaehvConfig,
    TransformerConfig,
    WaypointGeometry,
)
from waypoint_parity.harness.run.family import Part
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable, input_row

# In the order of execution.
PARTS = (
    Part("input.prompt", "input", "input"),
    Part("input.image", "input", "input"),
    # The seed image and what is encoded of it are what a session is given.
    Part("encoder", "autoencoder", "input", whole=True, component="vae"),
    Part("image latent", "autoencoder", "input", whole=True),
    Part("input.controls", "input", "input"),
    Part("input.noise", "input", "input"),
    Part("input.schedule", "input", "input"),
    Part("input.clock", "input", "input"),
    Part("noise conditioner", "conditioning", "transformer", component="transformer"),
    Part("control embedding", "control", "transformer", component="transformer"),
    Part("patchify", "head", "transformer", component="transformer"),
    Part("conditioning heads", "conditioning", "transformer", component="transformer"),
    Part("projections", "attention", "transformer", component="transformer"),
    Part("rotation", "rope", "transformer", component="transformer"),
    Part("cache", "cache", "cache", component="transformer"),
    Part("attention", "attention", "transformer", component="transformer"),
    Part("prompt attention", "prompt", "transformer", component="transformer"),
    Part("control fusion", "control", "transformer", component="transformer"),
    Part("mlp", "mlp", "transformer", component="transformer"),
    Part("residual", "mlp", "transformer", component="transformer"),
    Part("output norm", "head", "transformer", component="transformer"),
    Part("velocity", "head", "transformer", component="transformer"),
    Part("sampler", "sampler", "sampler"),
    Part("decoder", "autoencoder", "decoder", whole=True, component="vae"),
    Part("picture", "autoencoder", "after the decoder", whole=True, component="vae"),
)

_PROMPT, _IMAGE, _DENOISE, _CACHE, _DECODE = ("prompt",), ("image",), ("denoise",), ("cache",), ("decode",)
_TRANSFORMER = ("image", "denoise", "cache")
_ANGLES = "transformer.rope_angles"
_CONTROLS = ("input.button", "input.mouse", "input.scroll")


def site_table(*geometries: WaypointGeometry, image: bool = True) -> SiteTable:
    """The table of a checkpoint's model, in a session with a seed `image` or without.

    Of several models: every site that one of them has, which reads what it reads in any of them.
    """
    rows: dict[tuple[str, tuple[str, ...]], SiteRow] = {}
    for geometry in geometries:
        for row in _rows(geometry.transformer, geometry.autoencoder, image):
            known = rows.setdefault((row.name, row.phases), row)
            rows[row.name, row.phases] = replace(known, reads=tuple(dict.fromkeys((*known.reads, *row.reads))))
    return SiteTable(rows.values())


def output_of(autoencoder: AutoencoderConfig | TaehvConfig, coder: str) -> str:
    """The last site of the `encoder` or the `decoder`."""
    if isinstance(autoencoder, TaehvConfig):
        return {"encoder": "encoder.17", "decoder": "decoder.22"}[coder]
    return f"{coder}.conv_out"


def _rows(config: TransformerConfig, autoencoder: AutoencoderConfig | TaehvConfig, image: bool) -> Iterator[SiteRow]:
    yield input_row("prompt_emb", "input.prompt", _PROMPT, stands_for=_PROMPT)
    yield input_row("prompt_pad_mask", "input.prompt", _PROMPT)
    yield input_row("image", "input.image", _IMAGE)
    yield from _coder(autoencoder, "encoder", _IMAGE, "input.image")
    encoded = (output_of(autoencoder, "encoder"),) if image else ()
    yield SiteRow(name="latent", phases=_IMAGE, part="image latent", reads=encoded, stands_for=_IMAGE)
    for name in ("button", "mouse", "scroll"):
        yield input_row(name, "input.controls", ("image", "denoise"), "controls", once=True)
    yield input_row("noise", "input.noise", _DENOISE, once=True)
    yield input_row("sigma", "input.schedule", _TRANSFORMER, stands_for=_DENOISE)
    yield input_row("timestamp", "input.clock", _TRANSFORMER)
    yield SiteRow(name="denoise_step_emb", phases=_TRANSFORMER, part="noise conditioner", reads=("input.sigma",))
    yield SiteRow(name="ctrl_emb", phases=_TRANSFORMER, part="control embedding", reads=_CONTROLS)
    yield from _patchify()
    if config.is_waypoint_15:
        # Waypoint 1 has a table of them, which no pass computes.
        yield SiteRow(name=_ANGLES, phases=_TRANSFORMER, part="rotation", reads=("input.timestamp",))
    entering = "patchify"
    for layer in range(config.n_layers):
        yield from _block(config, layer, entering)
        entering = f"transformer.blocks.{layer}"
    yield SiteRow(name="out_norm", phases=_TRANSFORMER, part="output norm", reads=(entering, "denoise_step_emb"))
    yield SiteRow(name="velocity", phases=_DENOISE, part="velocity", reads=("out_norm",))
    yield SiteRow(
        name="latent",
        phases=_DENOISE,
        part="sampler",
        kind=Kind.LATENT,
        reads=("velocity", "input.noise", "input.sigma", *encoded),
        # A session knows its schedule and its clock by itself, wherever the site that shows them is patched.
        around=("input.sigma",),
        carries=("input.schedule",),
    )
    for layer in range(config.n_layers):
        yield from _ring(config, layer)
    yield from _coder(autoencoder, "decoder", _DECODE, "latent")
    output = output_of(autoencoder, "decoder")
    resized = isinstance(autoencoder, TaehvConfig) and autoencoder.picture_size != autoencoder.inner_size
    yield SiteRow(name="frame", phases=_DECODE, part="picture", kind=Kind.PICTURE, reads=(output,), resized=resized)


def _patchify() -> Iterator[SiteRow]:
    reads = ("input.noise", "latent")
    yield SiteRow(name="patchify", phases=_IMAGE, part="patchify", reads=reads, taught=True)
    yield SiteRow(name="patchify", phases=_DENOISE, part="patchify", reads=reads)
    # Here the final latent is handed on: the only way to exchange a sampler that takes another number of steps.
    yield SiteRow(
        name="patchify",
        phases=_CACHE,
        part="patchify",
        reads=reads,
        carries=("input.schedule",),
        takes_final=True,
        taught=True,
    )


def _block(config: TransformerConfig, layer: int, entering: str) -> Iterator[SiteRow]:
    block, ring = f"transformer.blocks.{layer}", f"kv_cache.layers.{layer}"
    head, clock = f"{block}.cond_head", "input.timestamp"
    # A value residual mixes the first layer's values into every later one's.
    first = ("transformer.blocks.0.attn.v_proj",) if config.value_residual and layer else ()
    gate = (f"{block}.attn.gate_proj",) if config.gated_attn else ()
    yield SiteRow(name=head, phases=_TRANSFORMER, part="conditioning heads", reads=("denoise_step_emb",))
    for name in ("q", "k", "v"):
        projection = f"{block}.attn.{name}_proj"
        yield SiteRow(name=projection, phases=_TRANSFORMER, part="projections", reads=(entering, head))
    for name in ("q", "k"):
        reads = (f"{block}.attn.{name}_proj", _ANGLES if config.is_waypoint_15 else clock)
        yield SiteRow(name=f"{block}.attn.{name}_rope", phases=_TRANSFORMER, part="rotation", reads=reads)
    # What a pass attends to is settled once this frame's keys are rotated. Not every implementation can tell it.
    yield SiteRow(
        name=f"{ring}.visible",
        phases=_TRANSFORMER,
        part="cache",
        kind=Kind.MASK,
        reads=(f"{ring}.written", clock),
        around=(clock,),
        optional=True,
    )
    for name in gate:
        yield SiteRow(name=name, phases=_TRANSFORMER, part="projections", reads=(entering, head))
    rotated = (f"{block}.attn.q_rope", f"{block}.attn.k_rope", f"{block}.attn.v_proj")
    yield SiteRow(
        name=f"{block}.attn",
        phases=_TRANSFORMER,
        part="attention",
        reads=(*rotated, *gate, *first, f"{ring}.visible", f"{ring}.kv"),
        # What a pass sees of a ring may be shown and not patched: it acts through the attention.
        carries=("cache",),
    )
    stream = [entering, head, f"{block}.attn"]
    branches = (
        ("prompt_cross_attn", "prompt attention", config.has_prompt(layer), "input.prompt_emb"),
        ("ctrl_mlpfusion", "control fusion", config.has_control(layer), "ctrl_emb"),
    )
    for name, part, present, given in branches:
        if present:
            yield SiteRow(name=f"{block}.{name}", phases=_TRANSFORMER, part=part, reads=(*stream, given))
            stream.append(f"{block}.{name}")
    yield SiteRow(name=f"{block}.mlp", phases=_TRANSFORMER, part="mlp", reads=tuple(stream))
    yield SiteRow(name=block, phases=_TRANSFORMER, part="residual", reads=(*stream, f"{block}.mlp"))


def _ring(config: TransformerConfig, layer: int) -> Iterator[SiteRow]:
    block, ring, clock = f"transformer.blocks.{layer}", f"kv_cache.layers.{layer}", "input.timestamp"
    mixed = config.value_residual and layer > 0
    yield SiteRow(
        name=f"{ring}.written",
        phases=("image", "cache"),
        part="cache",
        kind=Kind.MASK,
        reads=(clock,),
        around=(clock,),
        stands_for=() if layer else _CACHE,
        taught=True,
    )
    yield SiteRow(
        name=f"{ring}.kv",
        phases=("image", "cache"),
        part="cache",
        kind=Kind.CACHE,
        reads=(
            f"{block}.attn.k_rope",
            f"{block}.attn.v_proj",
            *(("transformer.blocks.0.attn.v_proj",) if mixed else ()),
            f"{ring}.written",
        ),
        # What a ring stores of a layer with a value residual are the mixed values, which have no site and are what
        # that layer's attention attends to.
        around=(f"{block}.attn",) if mixed else (),
        carries=("attention",),
        taught=True,
    )


def _coder(
    config: AutoencoderConfig | TaehvConfig, coder: str, phases: tuple[str, ...], given: str
) -> Iterator[SiteRow]:
    """The sites of one half of the autoencoder, each made of those of the layer before."""
    layers = _taehv_layers(coder) if isinstance(config, TaehvConfig) else _dcae_layers(config, coder)
    final, entering = coder == "decoder", (given,)
    remembers = final and isinstance(config, TaehvConfig)
    for number, (sites, optional) in enumerate(layers):
        first = final and number == 0
        for name in sites:
            yield SiteRow(
                name=f"{coder}.{name}",
                phases=phases,
                part=coder,
                reads=entering,
                carries=("input.schedule",) if first else (),
                takes_final=first,
                # What a decoder that remembers was not given, its later pictures lack.
                stands_for=_DECODE if first and remembers else (),
                optional=optional,
            )
        # Who does without a site makes what follows of what is before it.
        entering = (*(entering if optional else ()), *(f"{coder}.{name}" for name in sites))


def _dcae_layers(config: AutoencoderConfig, coder: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(sites, whether optional) of every layer: a convolution, stages of a block and a shortcut, a convolution."""
    encoder = coder == "encoder"
    stages = len(config.encoder_blocks_per_stage if encoder else config.decoder_blocks_per_stage)
    yield ("conv_in",), False
    yield from (((f"blocks.{stage}", f"residuals.{stage}"), False) for stage in range(stages))
    yield ("conv_out",), False


def _taehv_layers(coder: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(sites, whether optional) of every layer with weights, by its number.

    What joins or splits frames and the convolution behind it may be one product.
    """
    encoder = coder == "encoder"
    yield ("0" if encoder else "1",), False
    for first in TAEHV_ENCODER_STAGES if encoder else TAEHV_DECODER_STAGES:
        blocks = range(first + 2, first + 5) if encoder else range(first, first + 3)
        frames, convolution = (first, first + 1) if encoder else (first + 4, first + 5)
        layers = [frames, convolution, *blocks] if encoder else [*blocks, frames, convolution]
        yield from (((str(layer),), layer == frames) for layer in layers)
    yield ("17" if encoder else "22",), False
