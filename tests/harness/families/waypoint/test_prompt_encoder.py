from pathlib import Path

import pytest
import torch

from tests.harness.text_encoder import WIDTH, write_text_encoder
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.prompt_encoder import TEXT_ENCODER, encode_prompt

TOKENS = 12
WALK = "A walk through the old town"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_text_encoder(tmp_path_factory.mktemp("text") / "encoder"))


def test_a_text_becomes_an_embedding_that_is_zero_where_it_is_padding(encoder: str) -> None:
    prompt = encode_prompt(WALK, encoder, TOKENS)
    assert prompt.embedding.shape == (1, TOKENS, WIDTH)
    assert (prompt.embedding.dtype, prompt.pad_mask.dtype) == (torch.float32, torch.bool)
    # Six words and the end of the text.
    assert prompt.pad_mask.tolist() == [[False] * 7 + [True] * 5]
    assert prompt.embedding[0, 7:].count_nonzero() == 0
    assert prompt.embedding[0, :7].count_nonzero() == 7 * WIDTH
    assert prompt.embedding.isfinite().all()


def test_the_embedding_is_that_of_the_real_classes(encoder: str) -> None:
    from transformers import AutoTokenizer, UMT5EncoderModel

    read = AutoTokenizer.from_pretrained(encoder)(WALK, return_tensors="pt")
    with torch.inference_mode():
        alone = UMT5EncoderModel.from_pretrained(encoder, dtype=torch.float32)(**read).last_hidden_state
    padded = encode_prompt(WALK, encoder, TOKENS).embedding
    assert read["input_ids"].shape == (1, 7)
    # Padding is hidden from the text: it is encoded as it is without.
    torch.testing.assert_close(padded[:, :7], alone, rtol=0, atol=1e-6)


def test_a_prompt_is_512_tokens_long_if_nothing_is_said(encoder: str) -> None:
    prompt = encode_prompt(WALK, encoder)
    assert prompt.embedding.shape == (1, 512, WIDTH)
    assert prompt.pad_mask.sum() == 505


def test_broken_unicode_is_repaired_first(encoder: str) -> None:
    """Text that was decoded in the wrong code page on its way here means what it meant."""
    broken = "the café".encode().decode("latin-1")
    assert broken == "the cafÃ©"
    repaired, right = (encode_prompt(text, encoder, TOKENS).embedding for text in (broken, "the café"))
    assert repaired.equal(right)
    assert not right.equal(encode_prompt("the town", encoder, TOKENS).embedding)


def test_a_longer_text_is_cut(encoder: str) -> None:
    prompt = encode_prompt(" ".join(["town"] * 40), encoder, TOKENS)
    assert prompt.embedding.shape == (1, TOKENS, WIDTH)
    assert not prompt.pad_mask.any()


def test_an_empty_text_is_the_end_of_text_alone(encoder: str) -> None:
    assert encode_prompt("", encoder, TOKENS).pad_mask.tolist() == [[False] + [True] * 11]


def test_the_same_text_gives_the_same_embedding(encoder: str) -> None:
    assert encode_prompt(WALK, encoder, TOKENS).embedding.equal(encode_prompt(WALK, encoder, TOKENS).embedding)


def test_nothing_is_drawn_off_a_terminal_and_the_librarys_setting_is_kept(
    encoder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    encode_prompt(WALK, encoder, TOKENS)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() is before is True


def test_encoding_leaves_no_gradient_and_no_inference_tensor_behind(encoder: str) -> None:
    embedding = encode_prompt(WALK, encoder, TOKENS).embedding
    assert not embedding.requires_grad
    assert not embedding.is_inference()


@pytest.mark.parametrize("encoder", ["nowhere", "google/umt5-xl", "google/umt5-xl@main"])
def test_an_encoder_must_be_a_folder_or_pinned(encoder: str) -> None:
    with pytest.raises(UserError) as caught:
        encode_prompt(WALK, encoder, TOKENS)
    assert TEXT_ENCODER in caught.value.expected


def test_a_folder_that_holds_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded as a UMT5 text encoder"):
        encode_prompt(WALK, str(tmp_path), TOKENS)


def test_an_encoder_that_lacks_weights_is_refused_and_not_filled_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_text_encoder(tmp_path / "encoder")
    file = folder / "model.safetensors"
    weights = load_file(file)
    lost = next(key for key in weights if key.endswith("layer.1.DenseReluDense.wo.weight"))
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError) as caught:
        encode_prompt(WALK, str(folder), TOKENS)
    assert lost in caught.value.found


def test_a_prompt_of_no_tokens_is_refused(encoder: str) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        encode_prompt(WALK, encoder, 0)
