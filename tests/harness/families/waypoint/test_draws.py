import struct
import zlib
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import assert_same_draw
from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.draws import (
    NoisePolicy,
    draw_controls,
    draw_noise,
    draw_prompt,
    make_scenario,
    read_image,
)
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE

SHAPE = (4, 2, 2)


def geometry(**changes: object) -> WaypointGeometry:
    config = transformer_config(**changes)
    return WaypointGeometry(config, autoencoder_config(config))


def test_noise_per_frame_is_the_official_scripts(golden: Path) -> None:
    official = load_file(golden / "base" / "scenario.safetensors")["noise"]
    frames, *_, channels, height, width = official.shape
    assert_same_draw(draw_noise((channels, height, width), frames, seed=11, policy="per-frame"), official)


def test_a_seed_gives_another_noise_under_every_policy_and_one_shape() -> None:
    noises = [draw_noise(SHAPE, 3, seed=5, policy=policy) for policy in get_args(NoisePolicy)]
    assert {tuple(noise.shape) for noise in noises} == {(3, 1, 1, *SHAPE)}
    assert not any(a[1].equal(b[1]) for a in noises for b in noises if a is not b)


def test_global_noise_goes_on_where_the_frame_before_stopped() -> None:
    generator = torch.Generator().manual_seed(5)
    frames = [torch.randn(1, 1, *SHAPE, generator=generator) for _ in range(3)]
    assert draw_noise(SHAPE, 3, seed=5, policy="global").equal(torch.stack(frames))


def test_sliced_noise_is_one_draw_for_the_whole_session() -> None:
    whole = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    noise = draw_noise(SHAPE, 3, seed=5, policy="sliced")
    assert all(noise[frame, 0, 0].equal(whole[0, :, frame]) for frame in range(3))


@pytest.mark.parametrize("policy", get_args(NoisePolicy))
def test_drawing_leaves_the_global_generator_alone(policy: NoisePolicy) -> None:
    before = torch.get_rng_state()
    draw_noise(SHAPE, 2, seed=1, policy=policy)
    draw_controls(4, 2, seed=1, style="random")
    draw_prompt(8, 4, 1, seed=1)
    assert torch.get_rng_state().equal(before)


def test_idle_controls_are_zero() -> None:
    assert all(not tensor.any() for tensor in draw_controls(4, 6, seed=1, style="idle").values())


def test_random_controls_move_everything() -> None:
    controls = draw_controls(16, 50, seed=1, style="random")
    assert controls["button"].unique().tolist() == [0.0, 1.0]
    assert 0.15 < controls["button"].mean() < 0.35
    assert controls["scroll"].unique().tolist() == [-1.0, 0.0, 1.0]
    assert -1 <= controls["mouse"].min() < -0.5 < 0.5 < controls["mouse"].max() <= 1


def test_a_prompt_is_zero_and_masked_where_it_is_padding() -> None:
    prompt = draw_prompt(8, tokens=6, padding=2, seed=1)
    assert prompt["prompt_pad_mask"].tolist() == [[False] * 4 + [True] * 2]
    assert not prompt["prompt_emb"][0, 4:].any()
    assert prompt["prompt_emb"][0, :4].all()


def test_a_seed_makes_the_same_scenario_again_and_another_seed_another() -> None:
    made = [make_scenario(geometry(), name="walk", units=3, seed=seed).digest for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_a_checkpoint_without_a_prompt_gets_a_scenario_without_one() -> None:
    scenario = make_scenario(geometry(prompt_conditioning=None), name="walk", units=1, seed=1)
    assert not {"prompt_emb", "prompt_pad_mask"} & scenario.tensors.keys()


@pytest.mark.parametrize("changes", [{"prompt_padding": 7}, {"prompt_padding": -1}, {"units": 0}], ids=str)
def test_what_cannot_be_made_is_refused(changes: dict[str, int]) -> None:
    arguments = {"units": 2, "prompt_tokens": 6, **changes}
    with pytest.raises(UserError, match="scenario cannot be made"):
        make_scenario(geometry(), name="walk", seed=1, **arguments)  # type: ignore[arg-type]


def test_a_picture_is_brought_to_the_size_of_a_seed_image(tmp_path: Path) -> None:
    Image.new("L", (64, 48), 200).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png")
    assert (tuple(image.shape), image.dtype) == (IMAGE_SHAPE, torch.uint8)
    assert image.unique().tolist() == [200]


def test_a_picture_of_that_size_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, IMAGE_SHAPE, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "noise.png")
    assert read_image(tmp_path / "noise.png").equal(pixels)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png: cannot be read as a picture"):
        read_image(tmp_path / "broken.png")


@pytest.mark.parametrize("policy", get_args(NoisePolicy))
@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**400])
def test_a_seed_beyond_64_bits_is_refused(policy: NoisePolicy, seed: int) -> None:
    with pytest.raises(UserError, match="nothing can be drawn"):
        draw_noise(SHAPE, 2, seed=seed, policy=policy)


def test_the_seed_of_the_last_frame_counts_too() -> None:
    assert draw_noise(SHAPE, 1, seed=2**64 - 1, policy="per-frame").shape[0] == 1
    with pytest.raises(UserError):
        draw_noise(SHAPE, 2, seed=2**64 - 1, policy="per-frame")
    assert draw_noise(SHAPE, 2, seed=-(2**63), policy="per-frame").shape[0] == 2


@pytest.mark.parametrize(
    "wanted",
    [{"units": 65}, {"units": 10**12}, {"units": 64, "image": torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)}],
    ids=["a frame too many", "far too many", "an image too many"],
)
def test_a_session_longer_than_the_model_is_not_drawn(wanted: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        make_scenario(geometry(), name="long", seed=1, **wanted)
    assert "n_frames 64" in caught.value.expected


@pytest.mark.parametrize("tokens", [0, -1, 10**13])
def test_a_prompt_that_cannot_be_drawn_is_refused(tokens: int) -> None:
    with pytest.raises(UserError, match="cannot be made"):
        make_scenario(geometry(), name="p", seed=1, units=1, prompt_tokens=tokens, prompt_padding=min(tokens, 0))


def test_a_picture_is_taken_upright_and_without_what_it_does_not_need(tmp_path: Path) -> None:
    drawn = torch.randint(0, 256, IMAGE_SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    picture = Image.fromarray(drawn)
    opaque = picture.copy()
    opaque.putalpha(255)
    turned, turn = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    turn[0x0112] = 6
    opaque.save(tmp_path / "opaque.png")
    turned.save(tmp_path / "turned.png", exif=turn)
    for name in ("opaque.png", "turned.png"):
        assert read_image(tmp_path / name).numpy().tolist() == drawn.tolist(), name


def test_a_picture_that_holds_no_seed_image_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 36), (9, 9, 9, 100)).save(tmp_path / "transparent.png")
    Image.new("I;16", (64, 36)).save(tmp_path / "sixteen bits.png")
    Image.new("F", (64, 36)).save(tmp_path / "floats.tiff")
    whole = tmp_path / "cut.png"
    Image.effect_noise((64, 36), 90).save(whole)
    whole.write_bytes(whole.read_bytes()[:300])
    _bomb(tmp_path / "bomb.png")
    for path in tmp_path.iterdir():
        with pytest.raises(UserError):
            read_image(path)


def _bomb(path: Path) -> None:
    """A PNG that says it has more pixels than anybody would unpack."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
