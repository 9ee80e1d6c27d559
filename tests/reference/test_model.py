from collections.abc import Callable

import torch
from torch import nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.inventory import transformer_keys
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.reference.eager.kv_cache import KVCache
from waypoint_parity.reference.eager.math import rms_norm
from waypoint_parity.reference.eager.model import OutNorm, WorldModel, load_world_model

CPU = torch.device("cpu")


def shapes(model: WorldModel) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def test_module_names_are_the_checkpoints_keys(config: TransformerConfig, bare_config: TransformerConfig) -> None:
    for geometry in (config, bare_config):
        assert shapes(WorldModel(geometry)) == transformer_keys(geometry)


def test_bf16_rounds_the_conditioner_but_computes_it_in_fp32(checkpoint: Checkpoint) -> None:
    weights = checkpoint.weights("transformer")
    model = load_world_model(checkpoint.geometry.transformer, weights, device=CPU, dtype=torch.bfloat16)
    conditioner = model.denoise_step_emb.mlp.fc1.weight
    assert conditioner.dtype == torch.float32
    assert conditioner.equal(weights["denoise_step_emb.mlp.fc1.weight"].bfloat16().float())
    assert model.ctrl_emb.mlp.fc1.weight.dtype == torch.bfloat16


def test_the_last_norm_is_scaled_then_biased_by_the_silu_of_the_condition() -> None:
    norm, x, cond = OutNorm(4), torch.randn(1, 3, 4), torch.randn(1, 1, 4)
    scale, bias = norm.fc(torch.nn.functional.silu(cond)).chunk(2, dim=-1)
    torch.testing.assert_close(norm(x, cond), rms_norm(x) * (1 + scale) + bias)


def test_patches_unfold_as_channel_row_column(model: WorldModel) -> None:
    h, w, c, (ph, pw) = model.config.height, model.config.width, model.config.channels, model.config.patch
    patches = torch.arange(h * w * c * ph * pw).view(1, h * w, c * ph * pw)
    latent = model._to_latent(patches)
    assert latent.shape == (1, 1, *model.config.latent_shape)
    for token, channel, row, column in [(0, 0, 0, 1), (1, 0, 0, 0), (w, 2, 1, 0)]:
        expected = patches[0, token, (channel * ph + row) * pw + column]
        y, x = token // w * ph + row, token % w * pw + column
        assert latent[0, 0, channel, y, x] == expected


def predict(
    model: WorldModel, kv_cache: KVCache, x: torch.Tensor, frame: int, prompt: torch.Tensor | None
) -> torch.Tensor:
    controls = Controls(torch.zeros(model.config.n_buttons), torch.zeros(2), torch.zeros(1))
    velocity: torch.Tensor = model(x, torch.ones(1, 1), torch.tensor([[frame]]), prompt, controls, kv_cache)
    return velocity


def test_history_counts_once_it_is_committed(model: WorldModel, prompt: Prompt) -> None:
    kv_cache = KVCache(model.config)
    kv_cache.reset(CPU, torch.float32)
    first, second = torch.randn(2, 1, 1, *model.config.latent_shape)
    alone = predict(model, kv_cache, second, 1, prompt.embedding)
    predict(model, kv_cache, first, 0, prompt.embedding)
    assert predict(model, kv_cache, second, 1, prompt.embedding).equal(alone)
    predict(model, kv_cache, first, 0, prompt.embedding)
    kv_cache.commit(0)
    assert not torch.allclose(predict(model, kv_cache, second, 1, prompt.embedding), alone)


def test_a_model_without_prompt_gate_or_fusion_runs(
    bare_config: TransformerConfig, randomise: Callable[[nn.Module], None]
) -> None:
    model, kv_cache = WorldModel(bare_config), KVCache(bare_config)
    randomise(model)
    kv_cache.reset(CPU, torch.float32)
    x = torch.randn(1, 1, *bare_config.latent_shape)
    velocity = predict(model, kv_cache, x, 0, None)
    assert velocity.shape == x.shape
    assert velocity.isfinite().all()
