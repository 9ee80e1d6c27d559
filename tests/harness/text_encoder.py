"""A UMT5 text encoder of a few kilobytes, with weights at random and a word for a token, saved as on the hub."""

from pathlib import Path

import torch

WIDTH = 32
WORDS = ("a", "walk", "through", "the", "old", "town", "café")


def write_text_encoder(folder: Path, width: int = WIDTH) -> Path:
    """Write tokenizer and encoder of embedding width E = `width` into `folder`, and return it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    special = ("<pad>", "</s>", "<unk>")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UMT5Config(vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        UMT5EncoderModel(config).save_pretrained(folder)
    return folder
