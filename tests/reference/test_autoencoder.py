from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu, silu
from torch.nn.utils.parametrizations import weight_norm

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.inventory import autoencoder_keys
from waypoint_parity.reference.eager.autoencoder import (
    Autoencoder,
    Convolution,
    DecoderBlock,
    DecoderResidual,
    EncoderBlock,
    EncoderResidual,
    FromLatent,
    NormalisedWeight,
    ResBlock,
    ToLatent,
    ToPixels,
    resize,
    stage_widths,
    to_uint8,
)


def silence(convolution: torch.nn.Module) -> None:
    """Make a convolution return zeros, so that the shortcut beside it shows."""
    convolution.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))


@pytest.mark.parametrize("skip_logvar", [False, True])
def test_module_names_are_the_checkpoints_keys(checkpoint: Checkpoint, skip_logvar: bool) -> None:
    config = replace(checkpoint.geometry.autoencoder, skip_logvar=skip_logvar)
    shapes = {key: tuple(tensor.shape) for key, tensor in Autoencoder(config).state_dict().items()}
    assert shapes == autoencoder_keys(config)


def test_every_output_channel_has_the_norm_of_its_magnitude(randomise: Callable[[nn.Module], None]) -> None:
    weight = NormalisedWeight(inputs=4, outputs=3, kernel=3)
    randomise(weight)
    norms = weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, weight.original0.abs().flatten())


@pytest.mark.parametrize(("kernel", "groups", "bias"), [(1, 1, True), (3, 1, True), (3, 2, True), (1, 1, False)])
def test_a_convolution_loads_and_computes_what_a_weight_normalised_conv2d_does(
    kernel: int, groups: int, bias: bool, randomise: Callable[[nn.Module], None]
) -> None:
    expected = weight_norm(nn.Conv2d(4, 6, kernel, padding=kernel // 2, groups=groups, bias=bias))
    randomise(expected)
    actual = Convolution(4, 6, kernel, groups=groups, bias=bias)
    actual.load_state_dict(expected.state_dict(), strict=True)
    x = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(actual(x), expected(x))


def test_widths_double_up_to_the_widest() -> None:
    assert stage_widths(64, 256, 4) == [64, 128, 256, 256, 256]


def test_resize_is_bicubic_without_antialiasing() -> None:
    impulse = torch.zeros(1, 1, 4, 16)
    impulse[..., 8] = 1
    # Pixel i samples at 2i + 0.5 with the four taps of the cubic kernel (A = -0.75); antialiasing would widen it.
    expected = torch.tensor([0, 0, 0, -0.09375, 0.59375, 0, 0, 0])
    torch.testing.assert_close(resize(impulse, 4, 8)[0, 0, 0], expected)


@pytest.mark.parametrize(("width", "deeper"), [(8, 16), (16, 16)])
def test_both_paths_of_a_stage_meet_in_shape(width: int, deeper: int, randomise: Callable[[nn.Module], None]) -> None:
    shallow, deep = torch.randn(1, width, 8, 8), torch.randn(1, deeper, 4, 4)
    down, up = [EncoderBlock(width, deeper, 2), EncoderResidual(width, deeper)], [DecoderBlock(deeper, width, 1)]
    for path in [*down, *up, DecoderResidual(deeper, width)]:
        expects_shallow = isinstance(path, EncoderBlock | EncoderResidual)
        randomise(path)
        result = path(shallow if expects_shallow else deep)
        assert result.shape == (deep if expects_shallow else shallow).shape


def test_a_residual_block_widens_mixes_in_groups_of_sixteen_and_adds(randomise: Callable[[nn.Module], None]) -> None:
    block, x = ResBlock(16), torch.randn(1, 16, 4, 4)
    randomise(block)
    hidden = leaky_relu(block.conv2(leaky_relu(block.conv1(x), 0.01)), 0.01)
    torch.testing.assert_close(block(x), x + block.conv3(hidden))
    assert block.conv2.parametrizations["weight"]().shape == (32, 16, 3, 3)


def test_pixels_come_from_a_convolution_of_the_silu_resized_last(randomise: Callable[[nn.Module], None]) -> None:
    head, x = ToPixels(width=8, channels=3, frame_size=(6, 10)), torch.randn(1, 8, 8, 8)
    randomise(head)
    torch.testing.assert_close(head(x), resize(head.proj(silu(x)), 6, 10))


def test_an_up_step_projects_only_where_the_width_changes() -> None:
    assert isinstance(DecoderBlock(16, 8, 1).up.proj, Convolution)
    assert not isinstance(DecoderBlock(16, 16, 1).up.proj, Convolution)


def test_the_latent_shortcut_is_the_scaled_mean_over_channel_groups(randomise: Callable[[nn.Module], None]) -> None:
    head = ToLatent(width=8, latent_channels=2)
    randomise(head)
    silence(head.proj)
    x = torch.randn(1, 8, 3, 3)
    expected = torch.stack([x[:, 0::2].mean(1), x[:, 1::2].mean(1)], dim=1) * 4**0.5
    torch.testing.assert_close(head(x), expected)


def test_the_decoder_shortcut_repeats_each_channel_in_a_row(randomise: Callable[[nn.Module], None]) -> None:
    stem = FromLatent(latent_channels=2, width=8)
    randomise(stem)
    silence(stem.proj)
    latent = torch.randn(1, 2, 3, 3)
    expected = torch.stack([latent[:, 0]] * 4 + [latent[:, 1]] * 4, dim=1) / 4**0.5
    torch.testing.assert_close(stem(latent), expected)


def test_pixels_are_shifted_clamped_and_rounded() -> None:
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    image = to_uint8(values.expand(1, 4, 1, -1))
    assert image.shape == (1, 7, 3)
    assert image.dtype == torch.uint8
    assert image[0, :, 0].tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_an_image_passes_through_the_square(autoencoder: Autoencoder, scenario: dict[str, torch.Tensor]) -> None:
    seen: list[torch.Tensor] = []
    conv_in = autoencoder.encoder.conv_in
    handle = conv_in.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    latent = autoencoder.encoder(scenario["image"])
    handle.remove()
    pixels, features = seen
    torch.testing.assert_close(pixels[0, 1], scenario["image"][..., 1] / 127.5 - 1)
    assert features.shape[-2:] == (512, 512)
    assert latent.shape == (1, 4, 8, 8)
    assert autoencoder.decoder(latent).shape == (360, 640, 3)


def test_a_bf16_latent_is_decoded_in_fp32(autoencoder: Autoencoder) -> None:
    latent = torch.randn(1, 4, 8, 8).bfloat16()
    assert autoencoder.decoder(latent).equal(autoencoder.decoder(latent.float()))
