"""What a scenario gave to both sides, as text: its noise policy, its prompt, its controls. Read without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open


@dataclass(frozen=True)
class Given:
    """`facts` by name, and the controls of every frame."""

    facts: dict[str, str]
    controls: list[dict[str, str]]


def read_given(scenario: Path) -> Given | None:
    """What a scenario file gives; None where it cannot be read."""
    try:
        with safe_open(scenario, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != "image"}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    facts = {
        "noise seed": metadata.get("seed", "not told"),
        "noise policy": metadata.get("noise_policy", "not told"),
        "prompt given": _prompt(tensors),
    }
    return Given(facts, _controls(tensors))


def _prompt(tensors: dict[str, npt.NDArray[Any]]) -> str:
    if "prompt_emb" not in tensors or "prompt_pad_mask" not in tensors:
        return "none"
    padding, embedding = tensors["prompt_pad_mask"][0], tensors["prompt_emb"][0]
    text = f"{len(padding)} tokens, {int(padding.sum())} of them padding"
    for name, tokens in (("real", embedding[~padding]), ("padding", embedding[padding])):
        if tokens.size:
            text += f"; {name}: mean {tokens.mean():.4g}, std {tokens.std():.4g}"
    return text


def _controls(tensors: dict[str, npt.NDArray[Any]]) -> list[dict[str, str]]:
    names = ("button", "mouse", "scroll")
    if any(name not in tensors for name in names):
        return []
    return [
        {
            "buttons": ", ".join(map(str, np.flatnonzero(button))) or "none",
            "mouse": ", ".join(f"{value:+.3f}" for value in mouse),
            "scroll": ", ".join(f"{value:+.3f}" for value in scroll),
        }
        for button, mouse, scroll in zip(*(tensors[name] for name in names), strict=True)
    ]
