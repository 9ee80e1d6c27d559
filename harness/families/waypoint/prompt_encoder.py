"""Text to the prompt that the model attends to: UMT5, as the official text conditioning uses it.

Needs the extra `prompt` (transformers, ftfy). The encoder runs in fp32; what a run then makes of the embedding's
precision is a matter of its numerics.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.hub import PINNED
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint.scenario import Prompt

TEXT_ENCODER = "google/umt5-xl@e02ba7fcf3d6286215043111ee2fc83a9d1f18e2"
TOKENS = 512


def encoded(text: str | None, encoder: str | None, tokens: int | None) -> Prompt | None:
    """The prompt of a text, where there is one. Raises UserError for an encoder without a text."""
    if text is None:
        if encoder is not None:
            raise UserError(
                "there is nothing to encode",
                found=f"--text-encoder {encoder} alone",
                expected="a text for it",
                do="add --prompt, or leave --text-encoder out",
            )
        return None
    return encode_prompt(text, encoder or TEXT_ENCODER, TOKENS if tokens is None else tokens)


def encode_prompt(text: str, encoder: str = TEXT_ENCODER, tokens: int = TOKENS) -> Prompt:
    """`text`, cleaned of broken Unicode and padded or cut to `tokens`, as embedding [1,P,E] fp32 and pad mask [1,P].

    `encoder` is a folder or a hub id with a pinned revision. The embedding is zero where the mask is true. Raises
    UserError without the extra, for an encoder that is none or lacks weights, and for less than one token.
    """
    if tokens < 1:
        raise UserError("prompt cannot be encoded", found=f"{tokens} tokens", expected="at least 1", do="correct it")
    fix_text, tokenizer, model = _load(encoder)
    read = tokenizer(fix_text(text), max_length=tokens, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        embedding = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state
    pad_mask: Tensor = read["attention_mask"] == 0
    return Prompt(embedding.masked_fill(pad_mask[..., None], 0.0).clone(), pad_mask)


def _load(encoder: str) -> tuple[Any, Any, Any]:
    """The cleaner, the tokenizer and the encoder."""
    try:
        from ftfy import fix_text
        from transformers import AutoTokenizer, UMT5EncoderModel
    except ImportError as error:
        raise UserError(
            "a prompt cannot be encoded here",
            found=str(error),
            expected="transformers and ftfy, the extra `prompt`",
            do="pip install 'waypoint-parity[prompt]', or leave --prompt out",
        ) from error
    home, revision = _located(encoder)
    try:
        with _bars_on_a_terminal_only():
            tokenizer = AutoTokenizer.from_pretrained(home, revision=revision)
            model, report = UMT5EncoderModel.from_pretrained(
                home, revision=revision, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{encoder}: cannot be loaded as a UMT5 text encoder",
            found=str(error).splitlines()[0],
            expected="a folder with a tokenizer and a UMT5 encoder, or a reachable hub",
            do="correct --text-encoder",
        ) from error
    # Weights that a file lacks are drawn at random, with no more than a line in a log.
    if report["missing_keys"] or report["mismatched_keys"]:
        raise UserError(
            f"{encoder}: is not a whole UMT5 text encoder",
            found=f"no weights for {listed(sorted(map(str, {*report['missing_keys'], *report['mismatched_keys']})))}",
            expected="every weight of the encoder",
            do="correct --text-encoder, or fetch it again",
        )
    return fix_text, tokenizer, model.eval()


@contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """The library's own bars go to whatever stderr is."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _located(encoder: str) -> tuple[str, str | None]:
    """Folder or repository, and the revision of the latter."""
    if pinned := PINNED.fullmatch(encoder):
        return pinned["repo"], pinned["revision"]
    if Path(encoder).is_dir():
        return encoder, None
    raise UserError(
        f"{encoder}: no such text encoder",
        found="no folder of that name",
        expected=f"a folder, or a hub id with its revision, such as {TEXT_ENCODER}",
        do="correct --text-encoder",
    )
