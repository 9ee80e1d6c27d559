"""The DCAE's parts against their formulas; the whole is held against the golden packs in tests/parity."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from waypoint_parity.candidate.config import AutoencoderConfig
from waypoint_parity.candidate.dcae import Dcae, Decoder, Encoder, multiplied_out
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("no_gradients")
Weights = Mapping[str, Tensor]


@pytest.fixture
def no_gradients() -> object:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def stored(checkpoint: Checkpoint) -> Weights:
    return checkpoint.weights("vae")


@pytest.fixture(scope="module")
def baked(stored: Weights) -> Weights:
    return multiplied_out(stored)


@pytest.fixture(scope="module")
def encoder(baked: Weights, codec: AutoencoderConfig) -> Encoder:
    return Encoder(baked, codec)


@pytest.fixture(scope="module")
def decoder(baked: Weights, codec: AutoencoderConfig) -> Decoder:
    return Decoder(baked, codec)


def conv(weights: Weights, name: str, x: Tensor, groups: int = 1) -> Tensor:
    """The convolution `name`, written out; padded where it is 3x3."""
    kernel = weights[f"{name}.weight"]
    return functional.conv2d(x, kernel, weights.get(f"{name}.bias"), padding=kernel.shape[-1] // 2, groups=groups)


def test_kernels_are_what_weight_normalisation_computes() -> None:
    module = weight_norm(nn.Conv2d(4, 6, 3))
    state = {f"decoder.x.{key}": value * 1.5 for key, value in module.state_dict().items()}
    module.load_state_dict({key.removeprefix("decoder.x."): value for key, value in state.items()})
    baked = multiplied_out(state)
    torch.testing.assert_close(baked["decoder.x.weight"], module.weight)
    assert torch.equal(baked["decoder.x.bias"], state["decoder.x.bias"])


def test_it_computes_in_fp32_whatever_is_stored(stored: Weights, codec: AutoencoderConfig) -> None:
    halved = {key: value.bfloat16() for key, value in stored.items()}
    assert {value.dtype for value in Dcae(halved, codec).parameters()} == {torch.float32}


def test_a_latent_is_a_convolution_plus_the_scaled_mean_over_groups_of_channels(
    encoder: Encoder, baked: Weights
) -> None:
    x = torch.randn(1, 32, 3, 3)
    # Channels split as [group, latent]: channel c of the latent gathers channels c, c + 4, c + 8, ...
    shortcut = sum(x[:, first : first + 4] for first in range(0, 32, 4)) / 8 * 8**0.5
    torch.testing.assert_close(encoder.leave(x), conv(baked, "encoder.conv_out.proj", x) + shortcut)


def test_the_decoder_begins_with_every_channel_repeated_in_a_row(decoder: Decoder, baked: Weights) -> None:
    latent = torch.randn(1, 4, 3, 3)
    repeated = latent[:, [channel for channel in range(4) for _ in range(8)]] / 8**0.5
    torch.testing.assert_close(decoder.enter(latent), conv(baked, "decoder.conv_in.proj", latent) + repeated)


def test_bottlenecks_are_grouped_by_sixteen_channels_in_the_middle(decoder: Decoder, baked: Weights) -> None:
    x, name = torch.randn(1, 32, 4, 4), "decoder.blocks.0.blocks.0"
    wide = functional.leaky_relu(conv(baked, f"{name}.conv1", x), 0.01)
    wide = functional.leaky_relu(conv(baked, f"{name}.conv2", wide, groups=4), 0.01)
    torch.testing.assert_close(decoder.table.bottlenecks("blocks.0", x), x + conv(baked, f"{name}.conv3", wide))


def test_ways_halve_and_double(encoder: Encoder, decoder: Decoder) -> None:
    assert encoder.long_way("blocks.0", torch.randn(1, 8, 6, 6)).shape == (1, 16, 3, 3)
    assert encoder.short_way("residuals.0.proj", torch.randn(1, 8, 6, 6)).shape == (1, 16, 3, 3)
    # Rung 3 keeps its width, rung 4 halves it.
    for rung, width in ((3, 32), (4, 16)):
        assert decoder.long_way(f"blocks.{rung}", torch.randn(1, 32, 3, 3)).shape == (1, width, 6, 6)
        assert decoder.short_way(f"residuals.{rung}.proj", torch.randn(1, 32, 3, 3)).shape == (1, width, 6, 6)


def test_pixels_are_painted_first_and_resized_then(decoder: Decoder, baked: Weights) -> None:
    seen: list[Tensor] = []
    hook = decoder.conv_out.register_forward_hook(lambda module, inputs, pixels: seen.append(pixels))
    rungs = [rung.register_forward_hook(lambda *_: torch.ones(1, 8, 16, 16)) for rung in decoder.blocks[-1:]]
    rungs += [rung.register_forward_hook(lambda *_: torch.ones(1, 8, 16, 16)) for rung in decoder.residuals[-1:]]
    picture = decoder(torch.randn(1, 4, 8, 8))
    for handle in (hook, *rungs):
        handle.remove()
    painted = conv(baked, "decoder.conv_out.proj", functional.silu(torch.full((1, 8, 16, 16), 2.0)))
    expected = functional.interpolate(painted, (360, 640), mode="bicubic")
    torch.testing.assert_close(seen[0], expected)
    levels = ((expected[0] / 2 + 0.5).clamp(0, 1) * 255).round().movedim(0, -1)
    assert (picture - levels).abs().max() <= 1


def test_image_to_latent_and_back(encoder: Encoder, decoder: Decoder) -> None:
    latent = encoder(torch.randint(256, (360, 640, 3), dtype=torch.uint8))
    assert latent.shape == (1, 4, 8, 8)
    frame = decoder(latent)
    assert (frame.shape, frame.dtype) == ((360, 640, 3), torch.uint8)
