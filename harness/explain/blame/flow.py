"""Flow: which sites each site is computed from. The wiring of the model, without its mathematics."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig

Wiring = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Flow:
    """The wiring: the sites that each site reads directly (`reads`); an input reads none.

    `around`: sites whose errors reach another one whatever is patched. A session knows its schedule and its clock by
    itself, wherever the site that shows them is patched. And what a ring stores of a layer with a value residual are
    the mixed values, which have no site and are what that layer's attention attends to.
    """

    reads: Wiring
    around: Wiring


def flow(config: TransformerConfig, autoencoder: AutoencoderConfig, *, image: bool) -> Flow:
    """The wiring of a session, with a seed `image` or without."""
    wiring: dict[str, tuple[str, ...]] = {
        "denoise_step_emb": ("input.sigma",),
        "ctrl_emb": ("input.button", "input.mouse", "input.scroll"),
        "patchify": ("input.noise", "latent"),
    }
    entering = "patchify"
    for layer in range(config.n_layers):
        wiring |= _block(config, layer, entering)
        entering = f"transformer.blocks.{layer}"
    wiring |= {
        "out_norm": (entering, "denoise_step_emb"),
        "velocity": ("out_norm",),
        "latent": ("velocity", "input.noise", "input.sigma", *(["encoder.conv_out"] if image else [])),
    }
    if image:
        wiring |= _coder("encoder", len(autoencoder.encoder_blocks_per_stage), "input.image")
    wiring |= _coder("decoder", len(autoencoder.decoder_blocks_per_stage), "latent")
    return Flow(wiring | {"frame": ("decoder.conv_out",)}, _around(config))


def _around(config: TransformerConfig) -> Wiring:
    reached: dict[str, tuple[str, ...]] = {"latent": ("input.sigma",)}
    for layer in range(config.n_layers):
        ring = f"kv_cache.layers.{layer}"
        reached |= dict.fromkeys((f"{ring}.written", f"{ring}.visible"), ("input.timestamp",))
        if config.value_residual and layer:
            reached[f"{ring}.kv"] = (f"transformer.blocks.{layer}.attn",)
    return reached


def _block(config: TransformerConfig, layer: int, entering: str) -> Wiring:
    block, ring = f"transformer.blocks.{layer}", f"kv_cache.layers.{layer}"
    head, clock = f"{block}.cond_head", "input.timestamp"
    projections = [f"{block}.attn.{name}_proj" for name in ("q", "k", "v")]
    gate = [f"{block}.attn.gate_proj"] if config.gated_attn else []
    first_values = ["transformer.blocks.0.attn.v_proj"] if config.value_residual and layer else []
    q, k, v = projections
    wiring: dict[str, tuple[str, ...]] = {head: ("denoise_step_emb",)}
    wiring |= dict.fromkeys([*projections, *gate], (entering, head))
    wiring |= {f"{block}.attn.q_rope": (q, clock), f"{block}.attn.k_rope": (k, clock)}
    wiring |= {f"{ring}.written": (clock,), f"{ring}.visible": (f"{ring}.written", clock)}
    wiring |= {f"{ring}.kv": (f"{block}.attn.k_rope", v, *first_values, f"{ring}.written")}
    rotated = f"{block}.attn.q_rope", f"{block}.attn.k_rope"
    wiring[f"{block}.attn"] = (*rotated, v, *gate, *first_values, f"{ring}.visible", f"{ring}.kv")
    stream = [entering, head, f"{block}.attn"]
    branches = [("prompt_cross_attn", config.has_prompt(layer), "input.prompt_emb")]
    branches += [("ctrl_mlpfusion", config.has_control(layer), "ctrl_emb")]
    for name, present, given in branches:
        if present:
            wiring[f"{block}.{name}"] = (*stream, given)
            stream.append(f"{block}.{name}")
    wiring[f"{block}.mlp"] = tuple(stream)
    return wiring | {block: (*stream, f"{block}.mlp")}


def _coder(coder: str, stages: int, given: str) -> Wiring:
    wiring: dict[str, tuple[str, ...]] = {f"{coder}.conv_in": (given,)}
    entering: tuple[str, ...] = (f"{coder}.conv_in",)
    for stage in range(stages):
        both = f"{coder}.blocks.{stage}", f"{coder}.residuals.{stage}"
        wiring |= dict.fromkeys(both, entering)
        entering = both
    return wiring | {f"{coder}.conv_out": entering}


def exposed_to(site: str, wiring: Flow, patched: Collection[str]) -> list[str]:
    """The sites whose errors `site` may show although the sites `patched` hold the right values: nearest ones first."""
    found: dict[str, None] = {}
    pending = list(_unpatched(site, wiring, patched))
    while pending:
        ancestor = pending.pop(0)
        if ancestor not in found and ancestor != site:
            found[ancestor] = None
            pending += _unpatched(ancestor, wiring, patched)
    return list(found)


def _unpatched(site: str, wiring: Flow, patched: Collection[str]) -> Iterator[str]:
    direct = (ancestor for ancestor in wiring.reads.get(site, ()) if ancestor not in patched)
    return chain(wiring.around.get(site, ()), direct)
