from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pixel_shuffle, relu

from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.families.waypoint.config import TaehvConfig
from waypoint_parity.harness.families.waypoint.inventory import autoencoder_keys
from waypoint_parity.reference.eager.taehv import MemBlock, Taehv, TGrow, TPool, load_taehv

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
# The published widths; the packs' are narrower.
PUBLISHED = TaehvConfig(
    latent_channels=32,
    encoder_width=64,
    decoder_widths=(256, 128, 64, 64),
    inner_size=(512, 1024),
    picture_size=(720, 1280),
)
# How many frames of a latent's four a layer gives.
ENCODER_FRAMES = {0: 4} | dict.fromkeys(range(2, 7), 2) | dict.fromkeys(range(7, 18), 1)
DECODER_FRAMES = (
    dict.fromkeys((1, 3, 4, 5, 7, 8, 9, 10, 11), 1) | dict.fromkeys(range(13, 18), 2) | dict.fromkeys((19, 20, 22), 4)
)


def loaded(dtype: torch.dtype = torch.float32, *, wide: bool = False) -> Taehv:
    """The packs' autoencoder, its pictures 16:9 where `wide`."""
    checkpoint = open_checkpoint(GOLDEN / "w15-base")
    config = checkpoint.geometry.autoencoder
    config = replace(config, picture_size=(360, 640)) if wide else config
    return load_taehv(config, checkpoint.weights("vae"), device=CPU, dtype=dtype)


@pytest.fixture
def small(randomise: Callable[[nn.Module], None]) -> Taehv:
    """One of 32x64 pictures, with weights that make every layer count."""
    autoencoder = Taehv(
        TaehvConfig(
            latent_channels=4, encoder_width=6, decoder_widths=(7, 6, 5, 4), inner_size=(32, 64), picture_size=(32, 64)
        )
    )
    randomise(autoencoder)
    return autoencoder


def pictures() -> Tensor:
    return torch.randint(0, 256, (4, 32, 64, 3), dtype=torch.uint8)


def levels(actual: Tensor, expected: Tensor) -> int:
    """The largest difference of two pictures."""
    return int((actual.int() - expected.int()).abs().max())


def test_module_names_are_the_checkpoints_keys() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in Taehv(PUBLISHED).state_dict().items()}
    assert shapes == autoencoder_keys(PUBLISHED)
    assert len(shapes) == 128
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 11_372_012


def test_two_encodes_in_one_stream_are_the_official_ones() -> None:
    golden = load_file(GOLDEN / "w15-ae" / "activations.safetensors")
    image = load_file(GOLDEN / "w15-ae" / "scenario.safetensors")["image"].expand(4, -1, -1, -1)
    encoder = loaded(wide=True).encoder
    encoded = {name: encoder(given) for name, given in (("latent0", image), ("latent1", image.flip(2)))}
    found = [tensor_error(latent, golden[name]).rel_l2 for name, latent in encoded.items()]
    print("relative L2", found)
    assert all(error < 2e-6 for error in found)
    encoder.reset()
    assert tensor_error(encoder(image.flip(2)), golden["latent1"]).rel_l2 > 1e-2


def test_three_decodes_in_one_stream_are_the_official_ones() -> None:
    latents = load_file(GOLDEN / "w15-ae" / "activations.safetensors")["latents"]
    frames = load_file(GOLDEN / "w15-ae" / "frames.safetensors")
    decoder = loaded(wide=True).decoder
    decoded = [decoder(latent) for latent in latents]
    assert [tuple(four.shape) for four in decoded] == [(4, 360, 640, 3)] * 3
    for unit, picture in ((0, 0), (1, 3), (2, 3)):
        assert levels(decoded[unit][picture], frames[f"f{unit}/frame{picture}"]) <= 1


def test_a_bf16_autoencoder_decodes_what_the_official_one_does() -> None:
    """Up to 2 levels: where a processor's convolutions of bf16 sum in another order, another value is rounded up."""
    latents = load_file(GOLDEN / "w15-bf16" / "activations.safetensors")["latents"]
    frames = load_file(GOLDEN / "w15-bf16" / "frames.safetensors")
    in_bf16, in_fp32 = loaded(torch.bfloat16).decoder, loaded().decoder
    for unit, latent in enumerate(latents):
        rounded, exact = in_bf16(latent[:, 0]), in_fp32(latent[:, 0])
        if unit in (0, 5):
            assert levels(exact[3], frames[f"f{unit}/frame3"]) <= 1
    assert levels(rounded[3], frames["f5/frame3_bf16_autoencoder"]) <= 2
    assert levels(exact[3], frames["f5/frame3_bf16_autoencoder"]) > 2


def test_the_first_latent_is_fed_four_times_and_frame_by_frame_it_is_the_same(small: Taehv) -> None:
    """Depth first, one frame after the other, as a stream that never ends; the first twelve frames are dropped."""
    layers, memories = list(small.decoder), dict[nn.Module, Tensor]()

    def follow(x: Tensor, place: int) -> list[Tensor]:
        if place == len(layers):
            return [x]
        layer = layers[place]
        if isinstance(layer, MemBlock):
            past, memories[layer] = memories.get(layer, torch.zeros_like(x)), x
            y = x.new_tensor(0)
            for number, convolution in enumerate((layer.conv[0], layer.conv[2], layer.conv[4])):
                y = torch.cat([x, past], 1) if number == 0 else relu(y)
                y = conv2d(y, convolution.weight, convolution.bias, padding=1)
            outputs = [relu(y + x)]
        elif isinstance(layer, TGrow):
            outputs = list(layer.conv(x).chunk(layer.stride, dim=1))
        else:
            outputs = [layer(x)]
        return [last for output in outputs for last in follow(output, place + 1)]

    latents = torch.randn(3, 1, 4, 2, 4)
    endless = [frame for latent in (*latents[:1].repeat(3, 1, 1, 1, 1), *latents) for frame in follow(latent, 0)]
    for number, latent in enumerate(latents):
        expected = torch.cat(endless[12 + 4 * number :][:4])
        shown = pixel_shuffle(expected, 2).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1)
        assert levels(small.decoder(latent), shown) <= 1


def test_a_frame_is_seen_beside_the_frame_before_it_also_across_calls(randomise: Callable[[nn.Module], None]) -> None:
    together, apart = MemBlock(3), MemBlock(3)
    randomise(together)
    apart.load_state_dict(together.state_dict())
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(together(x), torch.cat([apart(x[:1]), apart(x[1:3]), apart(x[3:])]))
    assert not torch.allclose(together(x[:1]), MemBlock.forward(apart, torch.randn(1, 3, 5, 6)))


def test_of_frames_that_are_joined_or_split_the_earlier_comes_first() -> None:
    pool, grow = TPool(1, stride=2), TGrow(1, stride=2)
    for layer in (pool, grow):
        layer.conv.weight.requires_grad_(False).copy_(torch.tensor([1.0, 10.0]).view(layer.conv.weight.shape))
    frames = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)
    assert pool(frames).flatten().tolist() == [21, 43]
    assert grow(frames[:2]).flatten().tolist() == [1, 10, 2, 20]


def test_pictures_are_resized_bilinearly_to_what_the_layers_see(small: Taehv) -> None:
    image = torch.randint(0, 256, (4, 45, 80, 3), dtype=torch.uint8)
    seen: list[Tensor] = []
    small.encoder[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    small.encoder(image)
    resized = interpolate(image.permute(0, 3, 1, 2).double() / 255, size=(32, 64), mode="bilinear")
    torch.testing.assert_close(pixel_shuffle(seen[0], 2), resized.float())


def test_a_reset_begins_both_streams_anew(small: Taehv) -> None:
    image, latent = pictures(), torch.randn(1, 4, 2, 4)
    first = small.encoder(image), small.decoder(latent)
    second = small.encoder(image), small.decoder(latent)
    assert not any(a.equal(b) for a, b in zip(first, second, strict=True))
    small.reset()
    assert first[0].equal(small.encoder(image))
    assert first[1].equal(small.decoder(latent))


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_every_layer_shows_its_frames_once_and_what_is_put_there_is_gone_on_with(small: Taehv, half: str) -> None:
    layers, given = getattr(small, half), {"encoder": pictures(), "decoder": torch.randn(1, 4, 2, 4)}[half]
    expected = {"encoder": ENCODER_FRAMES, "decoder": DECODER_FRAMES}[half]
    shown: Counter[tuple[int, int]] = Counter()
    for place in expected:
        layers[place].register_forward_hook(
            lambda module, inputs, output, place=place: shown.update([(place, len(output))])
        )
    plain = layers(given)
    assert shown == Counter(expected.items())
    for place in expected:
        layers.reset()
        handle = layers[place].register_forward_hook(lambda module, inputs, output: output + 1)
        assert not layers(given).equal(plain), place
        handle.remove()


def test_bf16_is_computed_in_bf16() -> None:
    autoencoder = loaded(torch.bfloat16)
    image = torch.randint(0, 256, (4, 256, 512, 3), dtype=torch.uint8)
    latent = autoencoder.encoder(image)
    assert latent.dtype == torch.bfloat16
    error = tensor_error(latent.float(), loaded().encoder(image)).rel_l2
    assert 1e-4 < error < 2e-2
