"""What a report says of a session of Waypoint: its prompt, its controls, and how its latents are scaled. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig

Arrays = Mapping[str, npt.NDArray[Any]]


def prompt(tensors: Arrays) -> list[str]:
    """How many tokens there are, and what those of the padding hold beside the real ones."""
    if "prompt_pad_mask" not in tensors:
        return ["without a mask"]
    padding, embedding = tensors["prompt_pad_mask"][0], tensors["prompt_emb"][0]
    text = f"{len(padding)} tokens, {int(padding.sum())} of them padding"
    for name, tokens in (("real", embedding[~padding]), ("padding", embedding[padding])):
        if tokens.size:
            text += f"; {name}: mean {tokens.mean():.4g}, std {tokens.std():.4g}"
    return [text]


def buttons(tensors: Arrays) -> list[str]:
    """The buttons that are down in every frame."""
    return [", ".join(map(str, np.flatnonzero(down))) or "none" for down in tensors["button"]]


def mouse(tensors: Arrays) -> list[str]:
    """How far the mouse moves in every frame."""
    return _signed(tensors["mouse"])


def scroll(tensors: Arrays) -> list[str]:
    """How far the wheel turns in every frame."""
    return _signed(tensors["scroll"])


def scale_and_shift(checkpoint: Path) -> str:
    """What the autoencoder's config says, where the checkpoint is a folder in the diffusers layout, and in reach."""
    try:
        values = json.loads((checkpoint / "vae" / "config.json").read_text("utf-8"))
        config = AutoencoderConfig.read(values, source="vae/config.json")
    except (OSError, ValueError):
        return "1, 0 (there are no others; the checkpoint's config is not in reach)"
    return f"{config.scale_factor:g}, {config.shift_factor:g}"


def _signed(moves: npt.NDArray[Any]) -> list[str]:
    return [", ".join(f"{value:+.3f}" for value in move) for move in moves]
