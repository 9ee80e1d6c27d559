import re
from pathlib import Path

import pytest
from safetensors import safe_open

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.families.waypoint import inventory


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="pt") as header:
        return {key: tuple(header.get_slice(key).get_shape()) for key in header.keys()}  # noqa: SIM118 - no mapping


def test_the_official_transformer_has_exactly_the_expected_tensors(golden: Path, base: Checkpoint) -> None:
    found = stored_shapes(golden / "base" / "transformer" / WEIGHTS_NAME)
    assert found == inventory.transformer_keys(base.geometry.transformer)
    assert len(found) == 92


def test_the_official_autoencoder_has_exactly_the_expected_tensors(golden: Path, base: Checkpoint) -> None:
    found = stored_shapes(golden / "base" / "vae" / WEIGHTS_NAME)
    assert found == inventory.autoencoder_keys(base.geometry.autoencoder)
    assert len(found) == 163


@pytest.mark.parametrize(
    ("part", "present", "absent"),
    [
        (r"\.gate_proj\.", {"gated_attn": True}, {"gated_attn": False}),
        (r"\.v_lamb$", {"value_residual": True}, {"value_residual": False}),
        (r"prompt_", {}, {"prompt_conditioning": None}),
        (r"ctrl_(cfg|mlpfusion)", {}, {"ctrl_conditioning": None}),
    ],
)
def test_a_part_has_keys_only_where_the_config_has_the_part(
    part: str, present: dict[str, object], absent: dict[str, object]
) -> None:
    def keys(changes: dict[str, object]) -> list[str]:
        return [key for key in inventory.transformer_keys(transformer_config(**changes)) if re.search(part, key)]

    assert keys(present)
    assert not keys(absent)


def test_key_and_value_projections_are_as_wide_as_their_heads() -> None:
    keys = inventory.transformer_keys(transformer_config())
    assert keys["transformer.blocks.0.attn.q_proj.weight"] == (64, 64)
    assert (
        keys["transformer.blocks.0.attn.k_proj.weight"] == keys["transformer.blocks.0.attn.v_proj.weight"] == (32, 64)
    )


def test_a_stage_has_a_projection_up_only_where_the_width_changes() -> None:
    config = autoencoder_config(transformer_config())
    projections = [key for key in inventory.autoencoder_keys(config) if ".up.proj." in key]
    assert {key.split(".")[2] for key in projections} == {str(len(config.decoder_blocks_per_stage) - 1)}
