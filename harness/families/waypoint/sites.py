"""Sites: the named places of observation, after the official module tree, and which of them each pass must show."""

from collections.abc import Iterator

from torch import nn

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig
from waypoint_parity.harness.run.adapter import Pass, Site


def pass_sites(config: TransformerConfig, autoencoder: AutoencoderConfig, at: Pass) -> list[str]:
    """The sites that a right implementation shows in a pass, each once, in execution order.

    Those that harness.run.keys.is_optional names are among them, though an implementation may lack them.
    """
    if at.phase == "prompt":
        return ["input.prompt_emb", "input.prompt_pad_mask"]
    if at.phase == "decode":
        return [*_coder_sites("decoder", len(autoencoder.decoder_blocks_per_stage)), "frame"]
    sites: list[str] = []
    if at.phase == "image":
        sites += ["input.image", *_coder_sites("encoder", len(autoencoder.encoder_blocks_per_stage)), "latent"]
    if at.phase == "image" or (at.phase, at.step) == ("denoise", 0):
        sites += ["input.button", "input.mouse", "input.scroll"]
    if (at.phase, at.step) == ("denoise", 0):
        sites += ["input.noise"]
    sites += ["input.sigma", "input.timestamp", "denoise_step_emb", "ctrl_emb", "patchify"]
    for layer in range(config.n_layers):
        sites += _block_sites(config, layer)
    sites += ["out_norm"]
    if at.phase == "denoise":
        return [*sites, "velocity", "latent"]
    caches = (f"kv_cache.layers.{layer}" for layer in range(config.n_layers))
    return sites + [f"{cache}.{part}" for cache in caches for part in ("written", "kv")]


def _block_sites(config: TransformerConfig, layer: int) -> list[str]:
    attention = ["q_proj", "k_proj", "v_proj", "q_rope", "k_rope"] + (["gate_proj"] if config.gated_attn else [])
    parts = ["cond_head", *(f"attn.{name}" for name in attention), "attn"]
    if config.has_prompt(layer):
        parts.append("prompt_cross_attn")
    if config.has_control(layer):
        parts.append("ctrl_mlpfusion")
    block = f"transformer.blocks.{layer}"
    names = [*(f"{block}.{part}" for part in [*parts, "mlp"]), block]
    # What the pass attends to is settled once this frame's keys are rotated.
    names.insert(names.index(f"{block}.attn.k_rope") + 1, f"kv_cache.layers.{layer}.visible")
    return names


def _coder_sites(coder: str, stages: int) -> list[str]:
    inner = [f"{coder}.{part}.{stage}" for stage in range(stages) for part in ("blocks", "residuals")]
    return [f"{coder}.conv_in", *inner, f"{coder}.conv_out"]


def session_passes(steps: int, frames: int, *, prompt: bool, image: bool) -> Iterator[tuple[int, Pass]]:
    """(frame, pass) of every pass of a session, in execution order."""
    if prompt:
        yield 0, Pass("prompt")
    if image:
        yield 0, Pass("image")
    for frame in range(frames):
        for step in range(steps):
            yield frame, Pass("denoise", step)
        yield frame, Pass("cache")
        yield frame, Pass("decode")


def every_site(config: TransformerConfig, autoencoder: AutoencoderConfig) -> set[str]:
    """Every site that any pass of a session may show."""
    passes = [Pass("prompt"), Pass("image"), Pass("denoise"), Pass("cache"), Pass("decode")]
    return {site for at in passes for site in pass_sites(config, autoencoder, at)}


def matching_sites(root: nn.Module, config: TransformerConfig, autoencoder: AutoencoderConfig) -> dict[str, Site]:
    """The submodules of `root` whose names are site names. For models that mirror the official module tree."""
    names = every_site(config, autoencoder)
    return {name: Site(module) for name, module in root.named_modules() if name in names}
