"""Both spellings of Waypoint 1.5 are one model, and what is published twice is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.checkpoint.inspection import inspect_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.spelling import half_biases

Held = dict[str, Tensor]
BLOCK = "transformer.blocks.{}."


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the package's own spelling."""
    return write_waypoint_15(tmp_path_factory.mktemp("own") / "checkpoint")


def respelt(own: Path, folder: Path, change: Callable[[Held], Held]) -> Path:
    """A copy of a checkpoint with other weights of the transformer."""
    convert(open_checkpoint(own), "diffusers", folder)
    file = folder / "transformer" / WEIGHTS_NAME
    save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, file)
    return folder


def published(weights: Held) -> Held:
    """In the spelling that the model is published in; the two biases of a block are equal."""
    found: Held = {}
    for key, value in weights.items():
        block, dot, name = key.rpartition("cond_head.cond_proj.")
        if dot:
            number = int(name.removesuffix(".weight"))
            found[f"{block}{'attn' if number < 3 else 'mlp'}_cond_head.cond_proj.{number % 3}.weight"] = value
        elif key.endswith("cond_head.bias_in"):
            found |= {key.replace("cond_head", f"{half}_cond_head"): value.clone() for half in ("attn", "mlp")}
        elif ".ctrl_mlpfusion.mlp.fc1" in key:
            halves = zip("xc", value.chunk(2, dim=1), strict=True)
            found |= {key.replace("mlp.fc1", f"fc1_{half}"): part.clone() for half, part in halves}
        elif ".ctrl_mlpfusion.mlp.fc2" in key:
            found[key.replace("mlp.fc2", "fc2")] = value
        elif ".blocks." in key and ".mlp.fc" in key:
            found[key.replace(".mlp.", ".dit_mlp.")] = value
        elif key == "unpatchify.weight":
            found[key] = value.reshape(4, 2, 2, -1).permute(3, 0, 1, 2)
        elif key == "unpatchify.bias":
            found[key] = value[::4].clone()
        else:
            found[key] = value
    return found


def one_value_a_channel(weights: Held) -> Held:
    """What both spellings can say: the bias of unpatchify is that of a channel."""
    bias = weights["unpatchify.bias"][::4].repeat_interleave(4)
    return weights | {"unpatchify.bias": bias}


@pytest.fixture(scope="module")
def plain(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(respelt(own, tmp_path_factory.mktemp("plain") / "checkpoint", one_value_a_channel))


def test_the_published_spelling_is_the_same_model(plain: Checkpoint, own: Path, tmp_path: Path) -> None:
    found = open_checkpoint(respelt(own, tmp_path / "published", published))
    assert found.digest == plain.digest
    assert found.weights("transformer").keys() == plain.weights("transformer").keys()


def test_a_mixture_of_both_is_read_key_by_key_and_the_packages_own_key_wins(
    plain: Checkpoint, own: Path, tmp_path: Path
) -> None:
    def mixed(weights: Held) -> Held:
        wrong = {key: value + 1 for key, value in published(weights).items() if "blocks.0" in key}
        return one_value_a_channel(weights) | wrong

    weights = open_checkpoint(respelt(own, tmp_path / "mixed", mixed)).weights("transformer")
    expected = plain.weights("transformer")
    # What both spellings call the same is the other one's.
    same = BLOCK.format(0) + "attn."
    assert [key for key in expected if not key.startswith(same) and not weights[key].equal(expected[key])] == []


def test_copies_that_no_model_reads_are_left_out(plain: Checkpoint, own: Path, tmp_path: Path) -> None:
    copy = {BLOCK.format(1) + "cond_heads.0.weight": torch.zeros(3)}
    found = open_checkpoint(respelt(own, tmp_path / "copies", lambda weights: one_value_a_channel(weights) | copy))
    assert found.digest == plain.digest


@pytest.mark.parametrize("halves", [("attn",), ("mlp",), ("attn", "mlp")])
def test_of_two_biases_the_one_of_the_mlp_counts(own: Path, tmp_path: Path, halves: tuple[str, ...]) -> None:
    names = {half: BLOCK.format(1) + f"{half}_cond_head.bias_in" for half in ("attn", "mlp")}

    def apart(weights: Held) -> Held:
        found = published(weights)
        found[names["mlp"]] = found[names["mlp"]] + 1
        return {
            key: value
            for key, value in found.items()
            if key not in {names[half] for half in names if half not in halves}
        }

    checkpoint = open_checkpoint(respelt(own, tmp_path / "apart", apart))
    expected = load_file(own / "transformer" / WEIGHTS_NAME)[BLOCK.format(1) + "cond_head.bias_in"]
    taken = checkpoint.weights("transformer")[BLOCK.format(1) + "cond_head.bias_in"]
    assert taken.equal(expected + ("mlp" in halves))
    (told,) = inspect_checkpoint(checkpoint).told
    assert ("differ in 1" in told) == (len(halves) == 2)


def test_a_shape_that_belongs_to_another_layer_is_refused(own: Path, tmp_path: Path) -> None:
    name = BLOCK.format(0) + "ctrl_mlpfusion.fc1_c.weight"

    def narrow(weights: Held) -> Held:
        found = published(weights)
        return found | {name: found[name][:-1]}

    with pytest.raises(UserError) as caught:
        open_checkpoint(respelt(own, tmp_path / "narrow", narrow))
    assert name in caught.value.found


@pytest.mark.parametrize("kernel", [(1, 4), (4, 1), (1, 1)])
def test_a_kernel_of_another_patch_is_refused(own: Path, tmp_path: Path, kernel: tuple[int, int]) -> None:
    def other(weights: Held) -> Held:
        found = published(weights)
        return found | {"unpatchify.weight": found["unpatchify.weight"].reshape(64, -1, *kernel)}

    with pytest.raises(UserError) as caught:
        open_checkpoint(respelt(own, tmp_path / "kernel", other))
    assert "unpatchify.weight" in caught.value.found


def test_what_both_spellings_say_differently_is_told(own: Path, tmp_path: Path) -> None:
    key, name = (BLOCK.format(0) + f"{mlp}.fc1.weight" for mlp in ("mlp", "dit_mlp"))
    for sign, differ in ((1, False), (-1, True)):
        twice = respelt(own, tmp_path / str(sign), lambda held, sign=sign: held | {name: sign * held[key]})
        told = inspect_checkpoint(open_checkpoint(twice)).told[1]
        assert (key in told) == differ


def test_a_bias_that_stands_for_both_is_told(own: Path, tmp_path: Path) -> None:
    lost = BLOCK.format(1) + "mlp_cond_head.bias_in"
    single = respelt(own, tmp_path / "single", lambda held: {k: v for k, v in published(held).items() if k != lost})
    (told,) = inspect_checkpoint(open_checkpoint(single)).told
    assert "one alone in 1" in told


@pytest.mark.parametrize("layout", ["diffusers", "package"])
def test_a_conversion_keeps_both_biases(own: Path, tmp_path: Path, layout: str) -> None:
    def apart(weights: Held) -> Held:
        return {key: value + ("attn_cond_head.bias_in" in key) for key, value in published(weights).items()}

    checkpoint = open_checkpoint(respelt(own, tmp_path / "apart", apart))
    convert(checkpoint, layout, tmp_path / layout)
    converted = open_checkpoint(tmp_path / layout)
    assert converted.digest == checkpoint.digest
    config = checkpoint.geometry.transformer
    biases = [half_biases(each.files["transformer"], config) for each in (checkpoint, converted)]
    torch.testing.assert_close(*biases)
    assert len(biases[0]) == config.n_layers


@pytest.mark.parametrize("layout", ["diffusers", "package"])
def test_either_layout_holds_the_same_checkpoint(own: Path, tmp_path: Path, layout: str) -> None:
    checkpoint = open_checkpoint(own)
    convert(checkpoint, layout, tmp_path / layout)
    assert open_checkpoint(tmp_path / layout).digest == checkpoint.digest


def test_the_autoencoder_of_the_package_is_read_without_running_code_in_its_file(own: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(own), "package", tmp_path / "package")
    (tmp_path / "package" / "taehv1_5.pth").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UserError):
        open_checkpoint(tmp_path / "package")
    assert not Path("ran").exists()


@pytest.mark.parametrize("kind", ["sparse", "meta", "a number"])
def test_a_file_of_other_things_than_plain_tensors_is_refused(own: Path, tmp_path: Path, kind: str) -> None:
    convert(open_checkpoint(own), "package", tmp_path / "package")
    file = tmp_path / "package" / "taehv1_5.pth"
    held = torch.load(file, weights_only=True)
    held["encoder.0.bias"] = {
        "sparse": held["encoder.0.bias"].to_sparse(),
        "meta": held["encoder.0.bias"].to("meta"),
        "a number": 3,
    }[kind]
    torch.save(held, file)
    with pytest.raises(UserError):
        open_checkpoint(tmp_path / "package")


def test_an_autoencoder_that_is_there_twice_is_refused(own: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(own), "package", tmp_path / "package")
    file = tmp_path / "package" / "taehv1_5.pth"
    save_file(torch.load(file, weights_only=True), file.with_suffix(".safetensors"))
    with pytest.raises(UserError) as caught:
        open_checkpoint(tmp_path / "package")
    assert "taehv1_5.safetensors" in caught.value.found


def test_a_patch_that_contradicts_itself_is_refused(own: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(own), "diffusers", tmp_path / "copy")
    file = tmp_path / "copy" / "transformer" / "config.json"
    values = json.loads(file.read_bytes())
    for kernel, accepted in (([2, 2], True), ([1, 1], False)):
        file.write_text(json.dumps(values | {"conv_kw": {"kernel_size": kernel, "stride": kernel}}))
        if accepted:
            open_checkpoint(tmp_path / "copy")
            continue
        with pytest.raises(UserError):
            open_checkpoint(tmp_path / "copy")
