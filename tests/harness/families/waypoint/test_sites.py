from collections import Counter
from pathlib import Path

import pytest
from safetensors import safe_open

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import session_passes
from waypoint_parity.harness.families.waypoint.sites import every_site, pass_sites
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.keys import Key, block_of, is_input, is_optional, ring_part
from waypoint_parity.harness.run.registry import find

CONFIG = transformer_config()
AUTOENCODER = autoencoder_config(CONFIG)


def sites_of(phase: str, step: int = 0) -> list[str]:
    return pass_sites(CONFIG, AUTOENCODER, Pass(phase, step))  # type: ignore[arg-type]


def test_a_key_is_written_as_the_name_of_its_tensor() -> None:
    assert str(Key(3, "denoise", 1, "out_norm")) == "f3/denoise1/out_norm"
    assert str(Key(0, "cache", 0, "patchify", 2)) == "f0/cache0/patchify#2"


@pytest.mark.parametrize(
    ("site", "block"),
    [
        ("transformer.blocks.3.attn.q_proj", 3),
        ("transformer.blocks.12", 12),
        ("kv_cache.layers.0.kv", 0),
        ("decoder.residuals.2", 2),
        ("velocity", None),
    ],
)
def test_a_site_belongs_to_the_block_in_its_name(site: str, block: int | None) -> None:
    assert block_of(site) == block


def test_inputs_are_told_from_what_is_computed() -> None:
    assert is_input("input.noise")
    assert not is_input("encoder.conv_in")


@pytest.mark.parametrize("phase", ["prompt", "image", "denoise", "cache", "decode"])
def test_a_pass_shows_each_of_its_sites_once(phase: str) -> None:
    assert max(Counter(sites_of(phase)).values()) == 1


def test_noise_and_controls_are_inputs_of_the_first_step_alone() -> None:
    once = {"input.noise", "input.button", "input.mouse", "input.scroll"}
    assert once <= set(sites_of("denoise", 0))
    assert not once & set(sites_of("denoise", 1) + sites_of("cache"))


def test_what_a_pass_attends_to_is_shown_in_every_transformer_pass_and_optional() -> None:
    visible = [f"kv_cache.layers.{layer}.visible" for layer in range(3)]
    for phase in ("denoise", "cache", "image"):
        assert [site for site in sites_of(phase) if is_optional(site)] == visible
    assert not any(map(is_optional, sites_of("prompt") + sites_of("decode")))


@pytest.mark.parametrize(
    ("site", "part"), [("kv_cache.layers.3.kv", "kv"), ("kv_cache.layers.0.written", "written"), ("latent", None)]
)
def test_a_site_of_a_ring_shows_a_part_of_it(site: str, part: str | None) -> None:
    assert ring_part(site) == part


def test_caches_are_shown_after_the_passes_that_write_them() -> None:
    written = {f"kv_cache.layers.{layer}.{part}" for layer in range(3) for part in ("kv", "written")}
    assert written <= set(sites_of("cache"))
    assert written <= set(sites_of("image"))
    assert not written & set(sites_of("denoise"))


def test_velocity_is_shown_where_it_is_used() -> None:
    assert [phase for phase in ("image", "denoise", "cache") if "velocity" in sites_of(phase)] == ["denoise"]


def test_a_block_has_sites_only_for_the_parts_it_has() -> None:
    bare = transformer_config(gated_attn=False, prompt_conditioning=None, ctrl_conditioning=None)
    for part in ("gate_proj", "prompt_cross_attn", "ctrl_mlpfusion"):
        assert any(part in site for site in every_site(CONFIG, AUTOENCODER))
        assert not any(part in site for site in every_site(bare, AUTOENCODER))


def test_a_session_runs_prompt_then_image_then_frame_after_frame() -> None:
    passes = [(frame, at.phase, at.step) for frame, at in session_passes(2, 2, prompt=True, image=True)]
    generated = [("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0)]
    expected = [(0, "prompt", 0), (0, "image", 0)]
    assert passes == expected + [(frame, *at) for frame in range(2) for at in generated]
    assert len(list(session_passes(2, 2, prompt=False, image=False))) == 8


@pytest.mark.parametrize("pack", ["base", "image"])
def test_every_site_of_the_official_packs_is_an_expected_one(golden: Path, base: Checkpoint, pack: str) -> None:
    with safe_open(golden / pack / "activations.safetensors", framework="pt") as file:
        names = [name.split("/") for name in file.keys() if name.count("/") == 2]  # noqa: SIM118 - no mapping
    assert names
    assert {site for _, _, site in names} <= every_site(base.geometry.transformer, base.geometry.autoencoder)


def test_the_reference_has_every_site_of_a_geometry(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    adapter = find("eager")(tiny, fp32_on_cpu)
    assert adapter.sites().keys() == every_site(tiny.geometry.transformer, tiny.geometry.autoencoder)
