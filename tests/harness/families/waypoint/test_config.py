import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from waypoint_parity.fixtures.tiny import TRANSFORMER, transformer_config
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig, WaypointGeometry

VALUES: dict[str, Any] = {**TRANSFORMER, "tokens_per_frame": 4}


def read(**changes: Any) -> TransformerConfig:
    return TransformerConfig.read({**VALUES, **changes}, source="transformer/config.json")


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in VALUES.items() if key not in keys}


def test_the_official_config_is_read_and_written_back_unchanged(golden: Path) -> None:
    values = json.loads((golden / "base" / "transformer" / "config.json").read_bytes())
    config = TransformerConfig.read(values, source="config.json")
    found = json.loads(json.dumps(config.to_json()))
    assert found == {key: value for key, value in values.items() if key != "_class_name"}


def test_an_absent_key_takes_its_documented_default() -> None:
    absent = ("n_kv_heads", "patch", "value_residual", "gated_attn", "global_attn_offset")
    config = TransformerConfig.read(without(*absent), source="config.json")
    assert config.n_kv_heads == config.n_heads == 2
    assert (config.patch, config.value_residual, config.gated_attn, config.global_attn_offset) == (
        (1, 1),
        False,
        False,
        0,
    )


def test_keys_that_begin_with_an_underscore_are_ignored() -> None:
    assert read(_class_name="WorldModel", _diffusers_version="0.36") == read()


def test_unknown_keys_are_refused_by_name() -> None:
    with pytest.raises(UserError) as caught:
        read(n_registers=4, experts=True)
    assert caught.value.found == "experts, n_registers"
    assert "d_model" in caught.value.expected
    assert caught.value.what.startswith("transformer/config.json")


def test_absent_required_keys_are_named() -> None:
    with pytest.raises(UserError) as caught:
        TransformerConfig.read(without("d_model", "base_fps"), source="config.json")
    assert caught.value.expected == "also base_fps, d_model"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", "64"),
        ("d_model", True),
        ("d_model", 64.0),
        ("gated_attn", 1),
        ("patch", 2),
        ("patch", [2]),
        ("patch", [2, 2, 2]),
        ("patch", [1.5, 2]),
        ("scheduler_sigmas", [1.0, "0"]),
        ("ctrl_conditioning", 3),
        ("n_buttons", None),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{key} has a value of the wrong type"):
        read(**{key: value})


def test_a_whole_number_is_a_float_where_one_belongs() -> None:
    sigmas = read(scheduler_sigmas=[1, 0]).scheduler_sigmas
    assert sigmas == (1.0, 0.0)
    assert all(isinstance(sigma, float) for sigma in sigmas)


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 65},
        {"d_model": 32},  # heads of 16
        {"d_model": 80},  # heads of 40
        {"n_heads": 4, "d_model": 128, "n_kv_heads": 3},
        {"tokens_per_frame": 5},
        {"global_window": 5},
        {"noise_conditioning": "adaln"},
        {"noise_conditioning": None},
        {"ctrl_conditioning": "film"},
        {"prompt_conditioning": "concat"},
        {"prompt_conditioning_period": None},
        {"prompt_embedding_dim": None},
        {"prompt_embedding_dim": 48},  # not a number of heads of 32
        {"ctrl_conditioning_period": None},
        {"ctrl_conditioning_period": -2},
        {"prompt_conditioning_period": -3},
        {"prompt_embedding_dim": -32},
        {"scheduler_sigmas": [1.0]},
        {"scheduler_sigmas": []},
        {"scheduler_sigmas": [0.0, 0.5, 1.0]},
        {"scheduler_sigmas": [1.0, 0.5, 0.5, 0.0]},
        {"scheduler_sigmas": [1.0, 0.5]},
        {"scheduler_sigmas": [1.0, -0.5]},
    ],
    ids=str,
)
def test_keys_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"transformer/config\.json: .* does not hold"):
        read(**changes)


@pytest.mark.parametrize("value", [0, -1, 10**12, 10**400], ids=["0", "-1", "huge", "of 400 digits"])
@pytest.mark.parametrize(
    "key",
    ["d_model", "n_heads", "n_layers", "local_window", "global_attn_period", "global_pinned_dilation", "n_frames"],
)
def test_a_number_that_no_model_has_is_refused_by_key(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"transformer/config\.json: {key} is out of range"):
        read(**{key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 10**400])
def test_a_float_is_finite_in_fp32(value: float) -> None:
    with pytest.raises(UserError, match="scheduler_sigmas has a value of the wrong type"):
        read(scheduler_sigmas=[value, 0.0])


@pytest.mark.parametrize(
    "changes",
    [{"encoder_ch_0": 0}, {"decoder_ch_max": -4}, {"decoder_blocks_per_stage": [10**9]}, {"sample_size": [0, 0]}],
    ids=str,
)
def test_an_autoencoder_that_none_is_is_refused_by_key(golden: Path, changes: dict[str, Any]) -> None:
    values = json.loads((golden / "base" / "vae" / "config.json").read_bytes())
    with pytest.raises(UserError, match=rf"vae/config\.json: {next(iter(changes))} is out of range"):
        AutoencoderConfig.read({**values, **changes}, source="vae/config.json")


def test_an_autoencoder_for_latents_of_another_width_is_refused(golden: Path) -> None:
    values = json.loads((golden / "base" / "vae" / "config.json").read_bytes())
    wider = AutoencoderConfig.read({**values, "latent_channels": 8}, source="vae/config.json")
    with pytest.raises(UserError) as caught:
        WaypointGeometry(transformer_config(), wider)
    assert caught.value.found == "latents of 4 channels, and an autoencoder for 8"


def test_the_hint_for_unknown_keys_is_one_that_helps() -> None:
    """Without its quantization_config a quantised checkpoint would be misread; a config of another model stays one."""
    hints = []
    for values in (
        {**VALUES, "quantization_config": {}},
        {"num_layers": 19, "in_channels": 64},
        {**VALUES, "experts": 1},
    ):
        with pytest.raises(UserError) as caught:
            TransformerConfig.read(values, source="config.json")
        hints.append(caught.value.do)
    assert len(set(hints)) == 3
    assert [hint.startswith("remove the keys") for hint in hints] == [False, False, True]


def test_a_model_without_prompt_or_controls_needs_none_of_their_keys() -> None:
    config = read(
        prompt_conditioning=None, prompt_conditioning_period=None, prompt_embedding_dim=None, ctrl_conditioning=None
    )
    assert not any(config.has_prompt(layer) or config.has_control(layer) for layer in range(config.n_layers))


@pytest.mark.parametrize(
    ("offset", "layers"), [(0, [0, 4, 8]), (1, [1, 5, 9]), (-1, [3, 7]), (4, [0, 4, 8]), (6, [2, 6])]
)
def test_global_layers_repeat_with_the_period_from_the_offset(offset: int, layers: list[int]) -> None:
    config = transformer_config(n_layers=10, global_attn_period=4, global_attn_offset=offset)
    assert [layer for layer in range(10) if config.is_global(layer)] == layers


def test_a_layer_takes_ring_and_dilation_from_its_kind() -> None:
    config = transformer_config(local_window=3, global_window=8, global_pinned_dilation=4)
    assert [(config.ring_frames(layer), config.dilation(layer)) for layer in range(3)] == [(8, 4), (3, 1), (8, 4)]


def test_the_latent_is_the_token_grid_times_the_patch() -> None:
    assert transformer_config(height=4, width=3, patch=[2, 1]).latent_shape == (4, 8, 3)


def test_prompt_and_control_layers_repeat_with_their_periods() -> None:
    config = transformer_config(n_layers=7, prompt_conditioning_period=3, ctrl_conditioning_period=2)
    assert [layer for layer in range(7) if config.has_prompt(layer)] == [0, 3, 6]
    assert [layer for layer in range(7) if config.has_control(layer)] == [0, 2, 4, 6]


def test_the_official_autoencoder_config_is_read(golden: Path) -> None:
    values = json.loads((golden / "base" / "vae" / "config.json").read_bytes())
    config = AutoencoderConfig.read(values, source="vae/config.json")
    assert config.encoder_blocks_per_stage == (1,) * 6
    assert config.sample_size == (360, 640)


def test_a_config_cannot_be_changed_into_one_that_contradicts_itself() -> None:
    with pytest.raises(UserError, match="tokens_per_frame"):
        replace(transformer_config(), height=3)
