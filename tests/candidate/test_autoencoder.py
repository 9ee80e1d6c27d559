"""The DCAE's parts against their formulas; the whole is held against the golden packs in tests/parity."""

import torch
from torch.nn import functional

from waypoint_parity.candidate.autoencoder import (
    Autoencoder,
    DecoderHead,
    DecoderStem,
    DownResidual,
    EncoderHead,
    ResBlock,
    UpBlock,
    stage_widths,
    to_pixels,
)
from waypoint_parity.candidate.config import AutoencoderConfig


def test_stage_widths_double_up_to_the_maximum() -> None:
    assert stage_widths(64, 256, 4) == [64, 128, 256, 256, 256]


@torch.no_grad()
def test_the_encoder_head_adds_the_scaled_mean_over_groups_of_channels() -> None:
    head = EncoderHead(8, 4)
    x = torch.randn(1, 8, 3, 3)
    # Channels split as [group, latent]: channel c of the latent gathers channels c and c + 4.
    shortcut = (x[:, :4] + x[:, 4:]) / 2 * 2**0.5
    torch.testing.assert_close(head(x), head.proj(x) + shortcut)


@torch.no_grad()
def test_the_decoder_stem_adds_every_channel_repeated_in_a_row() -> None:
    stem = DecoderStem(2, 6)
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(stem(x), stem.proj(x) + x[:, [0, 0, 0, 1, 1, 1]] / 3**0.5)


@torch.no_grad()
def test_a_res_block_groups_its_middle_convolution_by_sixteen_channels() -> None:
    assert ResBlock(4).conv2.groups == 1
    block = ResBlock(32)
    assert block.conv2.groups == 4
    x = torch.randn(1, 32, 4, 4)
    hidden = functional.leaky_relu(block.conv2(functional.leaky_relu(block.conv1(x), 0.01)), 0.01)
    torch.testing.assert_close(block(x), x + block.conv3(hidden))


def test_an_up_block_projects_only_where_the_width_changes() -> None:
    assert [name for name, _ in UpBlock(8, 8, 1).named_parameters() if name.startswith("proj")] == []
    assert [name for name, _ in UpBlock(8, 4, 1).named_parameters() if name.startswith("proj")] == ["proj.weight"]


@torch.no_grad()
def test_a_residual_moves_pixels_into_channels() -> None:
    residual = DownResidual(4, 8)
    assert residual(torch.randn(1, 4, 6, 6)).shape == (1, 8, 3, 3)


@torch.no_grad()
def test_the_decoder_resizes_after_its_last_convolution(codec: AutoencoderConfig) -> None:
    head = DecoderHead(8, codec)
    x = torch.randn(1, 8, 512, 512)
    expected = functional.interpolate(head.proj(functional.silu(x)), (360, 640), mode="bicubic")
    torch.testing.assert_close(head(x), expected)


def test_pixels_are_shifted_clamped_and_rounded() -> None:
    x = torch.tensor([-1.5, -1.0, 0.0, 0.011, 1.0, 2.0]).view(1, 1, 1, 6).expand(1, 4, 1, 6)
    assert to_pixels(x).shape == (1, 6, 3)
    assert to_pixels(x)[0, :, 0].tolist() == [0, 0, 128, 129, 255, 255]


@torch.no_grad()
def test_image_to_latent_and_back(codec: AutoencoderConfig) -> None:
    autoencoder = Autoencoder(codec)
    latent = autoencoder.encoder(torch.randint(256, (360, 640, 3), dtype=torch.uint8))
    assert latent.shape == (1, 4, 8, 8)
    frame = autoencoder.decoder(latent)
    assert (frame.shape, frame.dtype) == ((360, 640, 3), torch.uint8)
