"""The keys and shapes that a checkpoint of a given config holds, by their official names."""

from itertools import pairwise

from waypoint_parity.harness.checkpoint.weights import Shape
from waypoint_parity.harness.families.waypoint.config import (
    TAEHV_DECODER_STAGES,
    TAEHV_ENCODER_STAGES,
    AutoencoderConfig,
    TaehvConfig,
    TransformerConfig,
)

SIGMA_FEATURES = 512


def transformer_keys(config: TransformerConfig) -> dict[str, Shape]:
    """Key -> shape of the world model's weights."""
    width, ratio = config.d_model, config.mlp_ratio
    patch_values = config.channels * config.patch[0] * config.patch[1]
    keys: dict[str, Shape] = {
        "denoise_step_emb.mlp.fc1.weight": (4 * width, SIGMA_FEATURES),
        "denoise_step_emb.mlp.fc2.weight": (width, 4 * width),
        "ctrl_emb.mlp.fc1.weight": (width * ratio, config.n_buttons + 3),
        "ctrl_emb.mlp.fc2.weight": (width, width * ratio),
        "patchify.weight": (width, config.channels, *config.patch),
        "unpatchify.weight": (patch_values, width),
        "unpatchify.bias": (patch_values,),
        "out_norm.fc.weight": (2 * width, width),
    }
    if config.ctrl_conditioning:
        keys["ctrl_cfg.null_emb"] = (1, 1, width)
    if config.prompt_conditioning:
        keys["prompt_cfg.null_emb"] = (1, 1, config.prompt_embedding_dim or 0)
    for layer in range(config.n_layers):
        block = _block_keys(config, layer)
        keys |= {f"transformer.blocks.{layer}.{name}": shape for name, shape in block.items()}
    return keys


def _block_keys(config: TransformerConfig, layer: int) -> dict[str, Shape]:
    width, ratio, key_width = config.d_model, config.mlp_ratio, config.n_kv_heads * config.head_dim
    keys: dict[str, Shape] = {
        "attn.q_proj.weight": (width, width),
        "attn.k_proj.weight": (key_width, width),
        "attn.v_proj.weight": (key_width, width),
        "attn.out_proj.weight": (width, width),
        "mlp.fc1.weight": (width * ratio, width),
        "mlp.fc2.weight": (width, width * ratio),
        "cond_head.bias_in": (width,),
    }
    keys |= {f"cond_head.cond_proj.{i}.weight": (width, width) for i in range(6)}
    if config.gated_attn:
        keys["attn.gate_proj.weight"] = (config.n_heads, config.n_heads)
    if config.value_residual:
        keys["attn.v_lamb"] = ()
    if config.has_prompt(layer):
        prompt = config.prompt_embedding_dim or 0
        keys |= {
            "prompt_cross_attn.q_proj.weight": (prompt, width),
            "prompt_cross_attn.k_proj.weight": (prompt, prompt),
            "prompt_cross_attn.v_proj.weight": (prompt, prompt),
            "prompt_cross_attn.out_proj.weight": (width, prompt),
        }
    if config.has_control(layer):
        keys["ctrl_mlpfusion.mlp.fc1.weight"] = (width, 2 * width)
        keys["ctrl_mlpfusion.mlp.fc2.weight"] = (width, width)
    return keys


def autoencoder_keys(config: AutoencoderConfig | TaehvConfig) -> dict[str, Shape]:
    """Key -> shape of the autoencoder's weights."""
    if isinstance(config, TaehvConfig):
        return _taehv_encoder_keys(config) | _taehv_decoder_keys(config)
    return _encoder_keys(config) | _decoder_keys(config)


def _taehv_encoder_keys(config: TaehvConfig) -> dict[str, Shape]:
    """Keys are numbers in a list of layers; the first and the last convolution and those in the blocks have a bias."""
    width, patches = config.encoder_width, config.image_channels * config.patch_size**2
    keys = _plain("encoder.0", patches, width, 3)
    for first, shorter in zip(TAEHV_ENCODER_STAGES, config.encoder_time_downscale, strict=True):
        keys |= _plain(f"encoder.{first}.conv", width * (1 + shorter), width, 1, bias=False)
        keys |= _plain(f"encoder.{first + 1}", width, width, 3, bias=False)
        keys |= _memory_blocks("encoder", first + 2, width)
    return keys | _plain("encoder.17", width, config.latent_channels, 3)


def _taehv_decoder_keys(config: TaehvConfig) -> dict[str, Shape]:
    widths, patches = config.decoder_widths, config.image_channels * config.patch_size**2
    keys = _plain("decoder.1", config.latent_channels, widths[0], 3)
    stages = zip(TAEHV_DECODER_STAGES, config.decoder_time_upscale, pairwise(widths), strict=True)
    for first, longer, (width, following) in stages:
        keys |= _memory_blocks("decoder", first, width)
        keys |= _plain(f"decoder.{first + 4}.conv", width, width * (1 + longer), 1, bias=False)
        keys |= _plain(f"decoder.{first + 5}", width, following, 3, bias=False)
    return keys | _plain("decoder.22", widths[-1], patches, 3)


def _memory_blocks(coder: str, first: int, width: int) -> dict[str, Shape]:
    """Three blocks in a row; each sees its input beside its previous one."""
    keys: dict[str, Shape] = {}
    for place in range(first, first + 3):
        keys |= _plain(f"{coder}.{place}.conv.0", 2 * width, width, 3)
        keys |= _plain(f"{coder}.{place}.conv.2", width, width, 3)
        keys |= _plain(f"{coder}.{place}.conv.4", width, width, 3)
    return keys


def _plain(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> dict[str, Shape]:
    """A convolution."""
    keys: dict[str, Shape] = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return keys | ({f"{name}.bias": (outputs,)} if bias else {})


def _encoder_keys(config: AutoencoderConfig) -> dict[str, Shape]:
    stages = len(config.encoder_blocks_per_stage)
    widths = _stage_widths(config.encoder_ch_0, config.encoder_ch_max, stages)
    keys = _conv("encoder.conv_in.proj", config.channels, widths[0], 3)
    for stage, blocks in enumerate(config.encoder_blocks_per_stage):
        here, deeper = widths[stage], widths[stage + 1]
        keys |= _resblocks(f"encoder.blocks.{stage}", here, blocks)
        keys |= _conv(f"encoder.blocks.{stage}.down.proj", here, deeper, 1, bias=False)
        keys |= _conv(f"encoder.residuals.{stage}.proj", here, deeper // 4, 3)
    keys |= _conv("encoder.conv_out.proj", widths[-1], config.latent_channels, 3)
    if not config.skip_logvar:
        keys |= _conv("encoder.conv_out_logvar", widths[-1], 1, 3)
    return keys


def _decoder_keys(config: AutoencoderConfig) -> dict[str, Shape]:
    stages = len(config.decoder_blocks_per_stage)
    widths = _stage_widths(config.decoder_ch_0, config.decoder_ch_max, stages)[::-1]
    keys = _conv("decoder.conv_in.proj", config.latent_channels, config.decoder_ch_max, 3)
    for stage, blocks in enumerate(config.decoder_blocks_per_stage):
        deeper, here = widths[stage], widths[stage + 1]
        if deeper != here:
            keys |= _conv(f"decoder.blocks.{stage}.up.proj", deeper, here, 1, bias=False)
        keys |= _resblocks(f"decoder.blocks.{stage}", here, blocks)
        keys |= _conv(f"decoder.residuals.{stage}.proj", deeper, 4 * here, 3)
    return keys | _conv("decoder.conv_out.proj", config.decoder_ch_0, config.channels, 3)


def _stage_widths(first: int, most: int, stages: int) -> list[int]:
    """Channel widths from the shallowest stage on, each twice the last, up to `most`."""
    widths = [first]
    for _ in range(stages):
        widths.append(min(2 * widths[-1], most))
    return widths


def _resblocks(prefix: str, width: int, count: int) -> dict[str, Shape]:
    hidden = 2 * width
    groups = max(1, hidden // 16)
    keys: dict[str, Shape] = {}
    for index in range(count):
        keys |= _conv(f"{prefix}.blocks.{index}.conv1", width, hidden, 1)
        keys |= _conv(f"{prefix}.blocks.{index}.conv2", hidden // groups, hidden, 3)
        keys |= _conv(f"{prefix}.blocks.{index}.conv3", hidden, width, 1, bias=False)
    return keys


def _conv(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> dict[str, Shape]:
    """A weight-normalised convolution: magnitude, direction and perhaps a bias."""
    keys: dict[str, Shape] = {
        f"{name}.parametrizations.weight.original0": (outputs, 1, 1, 1),
        f"{name}.parametrizations.weight.original1": (outputs, inputs, kernel, kernel),
    }
    return keys | ({f"{name}.bias": (outputs,)} if bias else {})
